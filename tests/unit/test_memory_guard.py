"""Memory while the node serves: reservations for requests, and the ladder's deeds."""

from dataclasses import replace

from edged.node.ledger import Account
from edged.node.memory_guard import INTERVAL_S
from edged.node.pressure import DOWN_AFTER_S, RESTART_AFTER_S, UP_AFTER_S, PressureLevel
from edged.scheduling.memory_budget import MemorySnapshot
from tests.fakes import LIMITS, MIB, REQUEST_BYTES, ROOMY, Bench

HIGH = MemorySnapshot(rss_bytes=390 * MIB, available_bytes=500 * MIB)
BROKEN = MemorySnapshot(rss_bytes=401 * MIB, available_bytes=500 * MIB)


def climb(bench: Bench, seconds: float) -> None:
    for _ in range(int(seconds / INTERVAL_S) + 1):
        bench.tick()
        bench.clock.advance(INTERVAL_S)


def held(bench: Bench) -> int:
    return bench.node.guard.ledger.accounts()["requests"]


def test_each_request_holds_its_memory_from_acceptance_to_its_reply() -> None:
    bench = Bench()
    for number in range(4):
        bench.deliver({"id": f"r{number}", "prompt": "x", "max_tokens": 10})
    assert held(bench) == 3 * REQUEST_BYTES  # the fourth was refused: the queue is full
    bench.deliver({"id": "r1"}, "cancel")
    assert held(bench) == 2 * REQUEST_BYTES
    bench.finish()
    bench.finish()
    assert held(bench) == 0


def test_a_ledger_without_room_refuses_and_says_what_is_missing() -> None:
    bench = Bench()
    ledger = bench.node.guard.ledger
    ledger.reserve(Account.WEIGHTS, ledger.free_bytes - REQUEST_BYTES + 1)
    bench.deliver({"id": "a", "prompt": "x"})
    error = bench.transport.replies[0].json["error"]
    assert (error["code"], error["missing_bytes"]) == ("memory_pressure", 1)
    assert error["retry_after_ms"] == 1000 * DOWN_AFTER_S


def test_the_ladder_gives_up_cache_then_dialogues_then_slots_then_new_work() -> None:
    bench = Bench(limits=replace(LIMITS, num_slots=3))
    bench.memory = HIGH

    def stand() -> tuple[str, int]:
        return bench.node.guard.level.name, bench.node.scheduler.num_slots

    bench.tick()
    assert (stand(), bench.worker.releases) == (("SHED_PREFIX", 3), 1)
    climb(bench, UP_AFTER_S)
    assert (stand(), bench.worker.releases) == (("SHED_SESSIONS", 3), 1)
    climb(bench, UP_AFTER_S)
    assert stand() == ("SHRINK_SLOTS", 1)
    assert bench.worker.releases > 1  # from now on each slot that became idle is given back
    climb(bench, UP_AFTER_S)
    assert stand() == ("REFUSE", 1)
    bench.memory = ROOMY
    bench.deliver({"id": "a", "prompt": "x"})
    error = bench.transport.replies[0].json["error"]
    assert (error["code"], error["retryable"]) == ("memory_pressure", True)
    climb(bench, 5 * DOWN_AFTER_S)
    assert stand() == ("CALM", 3)
    bench.deliver({"id": "b", "prompt": "x"})
    assert [job.request.reply_to.request_id for job in bench.worker.jobs] == ["b"]


def test_dialogues_are_forgotten_on_their_rung() -> None:
    bench = Bench()
    bench.deliver({"id": "a", "prompt": "x", "session": "s"})
    bench.finish()
    assert bench.node.num_sessions(bench.clock()) == 1
    bench.memory = HIGH
    climb(bench, UP_AFTER_S + INTERVAL_S)
    assert bench.node.num_sessions(bench.clock()) == 0


def test_a_budget_that_stays_broken_asks_for_a_restart() -> None:
    bench = Bench()
    bench.memory = BROKEN
    climb(bench, RESTART_AFTER_S + 2)
    assert bench.node.guard.level is PressureLevel.RESTART


def test_memory_is_read_once_a_second_at_most() -> None:
    bench = Bench()
    bench.memory = HIGH
    bench.tick()
    bench.clock.advance(INTERVAL_S - 0.01)
    before = bench.node.guard.level
    bench.memory = BROKEN
    bench.tick()
    assert bench.node.guard.level is before


def test_state_shows_the_account_and_the_rung() -> None:
    bench = Bench()
    members = bench.node.guard.members(rss_bytes=5 * MIB)
    assert members["pressure"] == "calm"
    assert members["planned_bytes"] == sum(members["ledger"].values())
    assert members["unplanned_bytes"] == 5 * MIB - members["planned_bytes"]
