"""What operators are told of memory: each change once."""

import json

from edged.daemon.operator_events import MemoryEvents
from edged.node.pressure import PressureLevel
from tests.fakes import MIB, Bench


def look(bench: Bench, alarms: MemoryEvents, rss_mib: int = 0, missing_bytes: int = 0) -> list[str]:
    """Return the kinds of the events that one look gives."""
    before = len(bench.transport.sent)
    alarms.update(rss_mib * MIB, missing_bytes)
    return [sent.json["event"] for sent in bench.transport.sent[before:]]


def start() -> tuple[Bench, MemoryEvents]:
    bench = Bench()
    return bench, MemoryEvents(bench.operator_events, bench.node.guard)


def test_short_memory_is_told_when_it_begins_and_when_it_is_over() -> None:
    bench, alarms = start()
    seen = [look(bench, alarms, missing_bytes=missing) for missing in (0, 7, 8, 0, 0)]
    assert seen == [[], ["degraded"], [], ["recovered"], []]
    assert bench.transport.sent[0].json["missing_bytes"] == 7


def test_each_rung_is_told() -> None:
    bench, alarms = start()
    told = []
    for rung in (
        PressureLevel.SHED_PREFIX,
        PressureLevel.SHED_PREFIX,
        PressureLevel.SHRINK_SLOTS,
        PressureLevel.CALM,
    ):
        bench.node.guard._ladder.level = rung
        told.append(look(bench, alarms))
    assert told == [["pressure"], [], ["pressure"], ["pressure"]]
    rungs = [json.loads(sent.message.payload)["rung"] for sent in bench.transport.sent]
    assert rungs == ["shed_prefix", "shrink_slots", "calm"]


def test_memory_on_no_account_is_told_beyond_a_margin() -> None:
    """The budget is 400 MiB, so 20 MiB above the ledger is the margin, and 12 its end."""
    bench, alarms = start()
    planned = bench.node.guard.ledger.planned_bytes // MIB
    seen = [look(bench, alarms, planned + above) for above in (18, 22, 30, 14, 22, 10, 22)]
    assert seen == [[], ["unplanned"], [], [], [], [], ["unplanned"]]
