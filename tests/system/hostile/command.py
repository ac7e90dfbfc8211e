"""Send hostile messages to a node with a real model, and check the results against bounds.

``scripts/hostile`` runs it. Needs Mosquitto and prlimit; starts a broker and a daemon of its own on
loopback, under the limits of the shipped unit (the memory limit only where a control group can be
created), and connects to nothing else.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.system.hostile.load import MB, Load, Outcome, play
from tests.system.versions import versions

BUNDLE = Path("models/smollm2-135m-instruct")
WARM_UP_S = 60.0
"""Of a short run it is a quarter."""
SHARE_AT_PER_S = 2.0
"""Up to this rate an honest client has a share of its answers to get."""


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    bound: str
    is_met: bool | None = None
    """None has no bound."""


def figures(outcome: Outcome) -> Iterator[Figure]:
    """Format an outcome as rows; bounds with "this machine" depend on its speed."""

    def held(name: str, value: float, limit: float, form: Callable[[float], str]) -> Figure:
        return Figure(name, form(value), f"≤ {form(limit)}", value <= limit)

    per_s = f"{outcome.num_hostile:,} at {outcome.per_s:g} a second, {outcome.seconds:.0f} s"
    yield Figure("hostile messages", per_s, "")
    yield held("restarts", outcome.num_restarts, 0, "{:.0f}".format)
    yield held("answers later than promised", outcome.num_late, 0, "{:.0f}".format)
    yield held("messages without exactly their reply", len(outcome.problems), 0, "{:.0f}".format)
    share = outcome.num_honest_ok / outcome.num_honest if outcome.num_honest else 0.0
    has_share = outcome.is_flood or outcome.per_s <= SHARE_AT_PER_S
    yield Figure(
        "honest client: answered",
        f"{outcome.num_honest_ok:,} of {outcome.num_honest:,}, {share:.1%}",
        "≥ 95 %, of this machine" if has_share else "",
        share >= 0.95 if has_share else None,
    )
    one = f"{outcome.honest_answer_s * 1000:.0f} ms, asked each {outcome.honest_period_s:.2f} s"
    yield Figure("one honest answer alone", one, "")
    # Of a flood that there is time for, nothing is refused.
    has_decisions = outcome.num_decisions > 0 or not outcome.is_flood
    is_early = outcome.num_decisions > 0 and outcome.decision_p99_s <= 0.05
    decision = Figure(
        f"publication to refusal, p50 and p99 of {outcome.num_decisions:,}",
        f"{outcome.decision_p50_s * 1000:.1f} ms, {outcome.decision_p99_s * 1000:.1f} ms",
        "p99 ≤ 50 ms, of this machine",
        is_early if has_decisions else None,
    )
    yield decision
    yield held("watchdog fed later than due", outcome.ping_late_s, 2, "{:.1f} s".format)
    growth = outcome.rss_growth_bytes / MB
    yield held("growth of RSS after the warm-up", growth, 20, "{:.1f} MB".format)
    yield held("lines of log a second", outcome.log_lines_per_s, 1, "{:.2f}".format)
    yield Figure("stopped with", str(outcome.exit_status), "0", outcome.exit_status == 0)
    codes = ", ".join(f"{code} {n:,}" for code, n in sorted(outcome.codes.items()))
    yield Figure("replies to hostile messages", codes, "")


def main(words: Sequence[str]) -> int:
    """Run what the options ask for; return 1 if a bound is missed."""
    options = _parser().parse_args(words)
    command = shlex.join(["scripts/hostile", *words])
    found: dict[str, object] = {"date": time.strftime("%Y-%m-%d", time.gmtime())}
    found |= {"command": command, "versions": versions()}
    outcomes = []
    for per_s in options.per_s:
        seconds = options.minutes * 60
        load = Load(
            options.bundle.resolve(),
            per_s,
            seconds,
            min(WARM_UP_S, seconds / 4),
            options.seed,
            is_flood=options.flood,
        )
        with tempfile.TemporaryDirectory(prefix="edged-hostile-") as name:
            outcomes.append(play(load, Path(name), _note))
    if options.json:
        print(json.dumps(found | {"loads": [outcome.as_json() for outcome in outcomes]}, indent=2))
    else:
        _print_tables(found, outcomes)
    for outcome in outcomes:
        _note("\n".join(["the slowest refusals:", *outcome.slowest]))
        _note("\n".join(["late:", *outcome.late]))
        for message, problem in outcome.problems.items():
            _note(f"{message}: {problem}")
    return int(any(row.is_met is False for outcome in outcomes for row in figures(outcome)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/hostile", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="the model; %(default)s")
    parser.add_argument(
        "--per-s",
        type=float,
        nargs="+",
        default=[2.0, 20.0],
        metavar="RATE",
        help="hostile messages a second, one load after the other; 2 and 20",
    )
    parser.add_argument("--minutes", type=float, default=10, help="of each load; %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of what is sent; %(default)s")
    parser.add_argument(
        "--flood", action="store_true", help="good requests of one account, more than there is time"
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    return parser


def _print_tables(found: dict[str, object], outcomes: Sequence[Outcome]) -> None:
    for name, value in found.items():
        print(f"{name}: {value}")
    for outcome in outcomes:
        print(f"\n| at {outcome.per_s:g} a second | | bound | met |\n|---|--:|--:|---|")
        words = {True: "yes", False: "**no**", None: ""}
        for row in figures(outcome):
            print(f"| {row.name} | {row.value} | {row.bound} | {words[row.is_met]} |")


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
