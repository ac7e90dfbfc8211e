"""The memory plan is accurate: planned memory compared with that of a process after work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edged.bundle.folder import Bundle

SCRIPT = """
import json
import sys
from pathlib import Path

import edged.daemon.run  # all imports of the daemon, as when the plan is made
from edged.daemon import memory
from edged.daemon import loader as resident
from edged.daemon import measurements
from edged.config.keys import Config, ModelConfig, StateConfig
from edged.engine.grammar import compile_format
from edged.protocol.request import ChatMessage, FormatType, OutputFormat, SamplingParams

bundle, folder, context, num_slots, chunk = sys.argv[1:]
state = StateConfig(folder=None if folder == "none" else Path(folder))
model = ModelConfig(
    path=Path(bundle),
    max_model_len=int(context),
    num_slots=int(num_slots),
    prefill_chunk_tokens=int(chunk) or None,
)
config = Config(model=model, state=state)
if state.folder is None:
    measurements.prepared_model = lambda *_, **__: None  # a device without room for a copy
model = resident.load(config)
ready_bytes = memory.rss_bytes()
engine, tokenizer = model.engine, model.tokenizer


def answer(prompt_ids, max_tokens, constraint=None):
    running = engine.start(
        prompt_ids, SamplingParams(), max_tokens=max_tokens, constraint=constraint
    )
    while not running.is_over:
        engine.step()
    engine.end(running)


# Tokens from the whole vocabulary, as a device has seen them after a few days.
length = engine.max_model_len - 32
for slot in range(engine.num_slots):
    answer([(n * engine.vocab_size // length + slot) for n in range(length)], 31)
schema = {"type": "object", "properties": {"why": {"type": "string", "maxLength": 40}}}
wish = OutputFormat(FormatType.JSON_SCHEMA, schema=schema)
asked = tokenizer.encode_chat((ChatMessage("user", "Why is the sky blue?"),))
answer(asked, 48, compile_format(tokenizer, wish))
worked_bytes = memory.rss_bytes()
rollup = Path("/proc/self/smaps_rollup").read_text().split()
dirty_bytes = int(rollup[rollup.index("Private_Dirty:") + 1]) * 1024
plan_bytes = model.memory.plan.total_bytes
print(json.dumps([plan_bytes, ready_bytes, worked_bytes, dirty_bytes]))
"""


def measured(
    bundle: Bundle, folder: Path | None, context: int, num_slots: int = 1, chunk: int = 0
) -> list[int]:
    """Bytes: planned, resident when ready, resident after work, private and dirty then.

    Without a ``chunk`` the fastest chunk size is used.
    """
    arguments = [bundle.folder, folder or "none", context, num_slots, chunk]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    figures: list[int] = json.loads(shown.stdout.splitlines()[-1])
    return figures


@pytest.mark.parametrize(
    ("context", "num_slots", "chunk"),
    [(512, 4, 64), (512, 4, 256), (2048, 1, 0)],
)
def test_memory_after_work_matches_the_plan(
    real_bundle: Bundle, tuned: Path, context: int, num_slots: int, chunk: int
) -> None:
    """For a configured chunk size, and for the fastest."""
    figures = measured(real_bundle, tuned, context, num_slots, chunk)
    planned_bytes, ready_bytes, worked_bytes, _ = figures
    assert worked_bytes == pytest.approx(planned_bytes, rel=0.1)
    assert ready_bytes < worked_bytes


def test_a_prepared_copy_keeps_the_weights_out_of_private_memory(
    real_bundle: Bundle, tuned: Path
) -> None:
    weights_bytes = sum(entry.size_bytes for entry in real_bundle.manifest.files.values())
    planned_bytes, _, worked_bytes, plain_bytes = measured(real_bundle, None, 512, chunk=64)
    assert worked_bytes == pytest.approx(planned_bytes, rel=0.1)
    _, _, _, mapped_bytes = measured(real_bundle, tuned, 512, chunk=64)
    assert plain_bytes - mapped_bytes > 0.7 * weights_bytes
