"""``docs/performance.md``, made from a document.

Rule: no figure stands on the page without device, versions, date and command.
"""

import json
from collections.abc import Iterator

from benchmarks.compare import table
from benchmarks.compare.engines import KNOWN
from benchmarks.compare.goals import goal_rows
from edged.commands.bench.figures import Document, heading
from edged.commands.bench.turns import DECODE_STEPS, TOGETHER_STEPS, TOGETHER_TOKENS, TTFT_TOKENS


def page(document: Document) -> str:
    """Return the page as Markdown."""
    return "\n".join(_lines(document))


def _lines(document: Document) -> Iterator[str]:
    device = document["device"]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    yield "# Performance"
    yield ""
    yield "Made by `python -m benchmarks.compare --from FILE.json --markdown FILE.md`; do not edit."
    yield ""
    yield f"{heading(document)}."
    yield ""
    yield f"- Device: {device['name']}, {device['cpus']} CPUs"
    yield f"  ({', '.join(device['cpu_flags'])}), {device['memory_bytes'] / 2**30:.1f} GiB,"
    yield f"  {device['system']} {device['architecture']}; load average {device['load_before']:.2f}"
    yield "  before the first turn"
    yield f"- Versions: {versions}"
    yield f"- Date: {document['date']}"
    yield f"- Command: `{document['command']}`"
    yield ""
    yield table.markdown(table.figures(document))
    yield ""
    yield from (f"- {line}" for line in table.remarks(document))
    rows = list(goal_rows(document))
    if rows:
        yield ""
        yield "## Goals"
        yield ""
        yield table.markdown([["", "goal", "measured", ""], *rows])
    yield ""
    yield from _METHOD.splitlines()
    yield ""
    yield "## Another device"
    yield ""
    yield "```"
    yield "python -m benchmarks.compare --model models/smollm2-135m-instruct --board board.md"
    yield "```"
    yield ""
    yield "measures this device and adds its row to the board; without a file the row is printed."
    yield f"Beside edged it measures {', '.join(KNOWN)} with `--against`; what is not installed"
    yield "is left out and named."


_METHOD = f"""\
## How it is measured

Every engine runs in a process of its own, with the same number of threads and the same token ids,
and takes each turn alone: A B A B, so that what disturbs the machine disturbs all. The figures are
medians over the runs, with the least and the most beside them; a quotient is that of the medians.
edged is run as its daemon runs it: with the weights as this processor wants them, and the attention
kernel and the chunk size of prefill that the daemon found to be fastest here at its first start.

- Prefill: prompt tokens ÷ time to the first token. Every prompt is new from its first token on.
- Decode: {DECODE_STEPS} greedy steps after such a prompt, stop tokens ignored.
- First token: a prompt of {TTFT_TOKENS} tokens, new; then the same again, from the engine's cache.
- Several at a time: prompts of {TOGETHER_TOKENS} tokens, {TOGETHER_STEPS} steps each, all together.
- CPU per token: user and system time of all threads over the same decode steps.
- Load: a fresh process, files in the page cache, from the import of the engine's library to a
  loaded model; edged's includes checking the bundle's hashes.
- Memory: `/proc/PID/smaps_rollup` of that process after load, and of the working one after
  the whole context was used. Each holds a Python interpreter and its engine's binding. PSS splits
  pages that several processes share: here the idle one and the fresh one.
- Read bandwidth: numpy's maximum over 256 MiB, all threads, best of 5 passes, at each run.
- Roofline: bytes of weights that a token must read x decode tok/s ÷ read bandwidth. The bytes are
  those of all weights in the graph, but one row of the embedding table and of the rotary caches;
  keys and values are not counted."""


def load(text: str) -> Document:
    """Read a document that ``python -m benchmarks.compare --json`` wrote.

    Raises:
        ValueError: it is not one.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or "engines" not in found or "samples" not in found:
        raise ValueError("not written by `python -m benchmarks.compare --json`")
    return found
