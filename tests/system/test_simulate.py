"""``python -m benchmarks.simulate``: the daemon's node on generated requests, and its goals."""

import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulate import __main__ as command
from benchmarks.simulate import shares
from benchmarks.simulate.baselines import run_fifo
from benchmarks.simulate.bound import best_tokens, busy_s
from benchmarks.simulate.figures import figures, jain, percentile
from benchmarks.simulate.fleet import POLICIES, run_fleet
from benchmarks.simulate.node import Node, run_edf
from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.plot import plot
from benchmarks.simulate.trace import REFERENCE, Ask, Workload, read_trace, write_trace
from benchmarks.simulate.workloads import WORKLOADS, Device, make_workload
from edged import cli

SMALL = Device(REFERENCE, num_slots=4)
HOURS = {"overload": 0.5, "flood": 0.25}
"""Where an hour has more requests than a test needs."""
SECOND = replace(REFERENCE, prefill_token_s=1e-6, prefill_pair_s=0.0, decode_pair_s=0.0)
"""A device on which prefill is nearly free and a token takes a second; see ``slow``."""
SLOW = replace(SECOND, run_s=1e-6, decode_token_s=1.0)


def run(
    name: str, policy: str = "edf", hours: float | None = None, device: Device = SMALL
) -> tuple[list[Outcome], dict[str, Any]]:
    length = HOURS.get(name, 1.0) if hours is None else hours
    workload = make_workload(name, 0, device, length)
    if policy == "edf":
        outcomes = run_edf(workload, device.cost).outcomes
    else:
        outcomes = run_fifo(workload, device.cost, drops=policy == "fifo-drop")
    assert sorted(o.ask.at_s for o in outcomes) == [ask.at_s for ask in workload.asks]
    return outcomes, figures(outcomes, workload, device.cost)


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_reply_is_late_and_admitted_deadlines_are_met(name: str) -> None:
    outcomes, summed = run(name)
    assert summed["late"] == 0
    assert summed["kept"] >= 0.995
    assert all(o.end_s <= o.ask.deadline_s + 1e-6 for o in outcomes)


def test_all_requests_of_a_home_are_answered() -> None:
    assert run("home")[1]["on_time"] == run("home")[1]["asked"]


@pytest.mark.parametrize("num_slots", [1, 4])
def test_the_goals_hold_at_four_times_the_capacity(num_slots: int) -> None:
    device = Device(REFERENCE, num_slots)
    _, ours = run("overload", hours=2.0, device=device)
    _, fifo = run("overload", "fifo", hours=2.0, device=device)
    assert ours["goodput"] >= 0.9
    assert ours["goodput"] >= 2 * fifo["goodput"]
    person = ours["classes"]["interactive"]
    assert person["on_time"] == person["asked"]
    assert person["ttft_p95_s"] <= 1.3 * person["ttft_alone_p95_s"]
    assert all(part["on_time"] >= 0.17 * part["asked"] for part in ours["classes"].values())


def test_a_flood_of_one_client_leaves_the_others_their_answers() -> None:
    outcomes, ours = run("flood")
    others = [o for o in outcomes if o.ask.client != "flood"]
    served = sum(o.end is End.ON_TIME for o in others)
    assert served >= 0.9 * len(others)
    _, fifo = run("flood", "fifo-drop")
    assert ours["jain"] > 0.95
    assert ours["jain"] > fifo["jain"]


@pytest.mark.parametrize("factor", [1, 10])
def test_an_honest_client_beside_a_flooding_account_gets_its_answers(factor: int) -> None:
    """A short form of ``python -m benchmarks.simulate.shares``, with room for few loads."""
    played = [shares.play_number(("account", factor, f"0 {number}")) for number in range(6)]
    asked = sum(it.num_asked for it in played)
    assert sum(it.num_answered for it in played) >= 0.95 * asked
    assert sum(it.num_late for it in played) == 0


def test_many_accounts_leave_a_client_its_weight() -> None:
    played = [shares.play_number(("accounts", 10, f"0 {number}")) for number in range(4)]
    assert sum(it.of_weight for it in played) >= 0.9 * len(played)


def test_the_shares_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    parts = [shares.Played(24, 24, 0, 0, 1.0, 99, 12.0)]
    assert shares.row("account", 10, parts)[:3] == ["one account, 10 x", "24", "100.0%"]
    assert shares.row("accounts", 10, parts)[0] == "10 accounts"
    assert cli.run("simulate", "benchmarks.simulate.shares", ["--loads", "5"]) == 64
    assert "--loads" in capsys.readouterr().err


def test_a_stalled_device_ends_answers_at_their_deadline() -> None:
    """No latency model predicts that; a partial answer or a refusal still goes out in time."""
    asks = [ask(float(n), 8, 60.0) for n in range(4)]
    node = Node(replace(SLOW, run_s=2.0), lambda at_s: 1.0 if at_s < 10 else 8.0)
    for one in asks:
        node.offer(one)
    node.run_until(float("inf"))
    ends = {outcome.ask.at_s: outcome.end for outcome in node.outcomes}
    assert ends[0.0] is End.ON_TIME
    assert set(ends.values()) - {End.REFUSED} == {End.ON_TIME, End.CUT, End.EXPIRED}
    assert all(o.end_s <= o.ask.deadline_s + 1e-9 for o in node.outcomes)


def test_predictions_follow_a_throttled_device() -> None:
    workload = make_workload("throttle", 0, SMALL, 1.0)
    node = Node(REFERENCE, workload.slowdown, SMALL.num_slots)
    slowest = 0.0
    for ask in workload.asks:
        node.offer(ask)
        slowest = max(slowest, node.costs.current.decode_token_s / REFERENCE.decode_token_s)
    assert slowest == pytest.approx(2.5, rel=0.1)
    assert sorted(node.errors)[int(0.95 * len(node.errors))] < 0.25


def test_the_same_seed_gives_the_same_requests() -> None:
    first, again, other = (make_workload("overload", seed, SMALL, 0.2) for seed in (1, 1, 2))
    assert first.asks == again.asks != other.asks


def ask(at_s: float, tokens: int, timeout_s: float = 100.0, **more: Any) -> Ask:  # noqa: ANN401
    return Ask(at_s, max_tokens=tokens + 1, output_tokens=tokens + 1, timeout_s=timeout_s, **more)


def test_fifo_answers_late_and_fifo_drop_ends_answers_at_their_deadline() -> None:
    workload = Workload("w", [ask(0, 10), ask(1, 10, 15.0), ask(2, 10, 5.0)])
    late = run_fifo(workload, SLOW, drops=False)
    assert [o.end for o in late] == [End.ON_TIME, End.LATE, End.LATE]
    dropped = run_fifo(workload, SLOW, drops=True)
    assert [o.end for o in dropped] == [End.ON_TIME, End.CUT, End.EXPIRED]
    assert [round(o.end_s) for o in dropped] == [10, 15, 7]


def test_the_bound_is_what_fits_into_the_time_that_can_be_used() -> None:
    assert busy_s([(0, 10, 6, 1), (0, 10, 6, 1)]) == 10
    assert busy_s([(0, 10, 6, 1), (20, 30, 6, 1)]) == 12
    assert busy_s([(0, 100, 50, 1), (10, 12, 5, 1)]) == 52
    assert busy_s([]) == 0
    two = [ask(0, 10, 10.001), ask(0, 10, 10.001, prompt_tokens=1)]
    assert best_tokens(Workload("w", two), SLOW) == pytest.approx(11, rel=0.01)


@pytest.mark.parametrize("num_slots", [1, 3])
def test_no_schedule_exceeds_the_bound(num_slots: int) -> None:
    rng, device = random.Random(5), replace(SLOW, decode_row_s=0.1)
    for _ in range(30):
        asks = [ask(rng.uniform(0, 40), rng.randint(1, 20), rng.uniform(5, 40)) for _ in range(12)]
        workload = Workload("w", sorted(asks, key=lambda one: one.at_s), num_slots)
        for outcomes in (
            run_edf(workload, device).outcomes,
            run_fifo(workload, device, drops=True),
        ):
            summed = figures(outcomes, workload, device)
            assert summed["goodput"] <= 1 + 1e-9
            assert summed["goodput_tokens"] <= 1 + 1e-9


def test_an_answer_in_a_full_batch_takes_its_share_of_the_steps() -> None:
    one = ask(0, 20)
    device = replace(SLOW, decode_row_s=0.1)
    assert one.work_s(device, 1) == pytest.approx(20, rel=1e-3)
    assert one.work_s(device, 4) == pytest.approx(20 * 1.3 / 4, rel=1e-3)


def test_fairness_is_one_for_equal_shares() -> None:
    assert jain([0.5, 0.5, 0.5]) == 1
    assert jain([1.0, 0.0]) == 0.5
    assert jain([]) == 1
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([], 50) is None


@pytest.mark.parametrize("policy", POLICIES)
def test_each_request_to_a_fleet_ends_once(policy: str) -> None:
    outcomes = run_fleet(policy, 5, 0, SMALL)
    assert len({(o.ask.at_s, o.ask.client) for o in outcomes}) == len(outcomes) > 300
    refused = sum(o.end is End.REFUSED for o in outcomes)
    assert 0 < refused < 0.4 * len(outcomes)


def test_retrying_another_node_after_a_refusal_answers_more() -> None:
    once, again = (
        sum(o.end is End.ON_TIME for o in run_fleet(policy, 5, 0, SMALL))
        for policy in ("share", "retry")
    )
    assert again > once


def simulate(*words: str) -> int:
    return command.main([*words])


def test_the_command_prints_tables_and_writes_the_requested_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / name for name in ("f.json", "f.svg", "f.trace", "cost.json")}
    files["cost.json"].write_text(json.dumps({"key": "k", "cost": asdict(REFERENCE)}))
    outputs = ["--json", "f.json", "--plot", "f.svg", "--save-trace", "f.trace", "--cost"]
    words = [str(files.get(word, word)) for word in (*outputs, "cost.json")]
    assert simulate("--workload", "home", "--hours", "0.5", *words) == 0
    printed = capsys.readouterr().out
    assert printed.count("| fifo-drop |") == 4
    assert "| edf       | interactive |" in printed
    assert set(json.loads(files["f.json"].read_text())) == {"edf", "fifo", "fifo-drop"}
    assert files["f.svg"].read_text().startswith("<svg")
    assert simulate("--trace", str(files["f.trace"]), "--policy", "edf") == 0
    again = capsys.readouterr().out
    assert again.splitlines()[2].split() == printed.splitlines()[2].split()


def test_a_fleet_has_no_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        simulate("--workload", "fleet", "--nodes", "2", "--policy", "two", "--chunk-tokens", "64")
        == 0
    )
    assert "-" in capsys.readouterr().out.splitlines()[2].split("|")[8]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--workload", "home", "--policy", "two"], "--policy two"),
        (["--workload", "fleet", "--policy", "fifo"], "--policy fifo"),
        (["--workload", "home", "--hours", "0"], "--hours"),
        (["--workload", "fleet", "--nodes", "0"], "--nodes"),
        (["--workload", "home", "--chunk-tokens", "0"], "--chunk-tokens"),
        (["--workload", "home", "--slots", "0"], "--slots"),
        (["--trace", "MISSING"], "cannot be read"),
        (["--workload", "home", "--cost", "MISSING"], "--cost"),
    ],
)
def test_a_wrong_option_is_named(
    words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(*(word.replace("MISSING", str(tmp_path / "none")) for word in words)) == 64
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"at_s": 1, "what": 2}',
        '{"at_s": 1, "max_tokens": 0}',
        '{"at_s": 1, "priority": "now"}',
        "{}",
    ],
)
def test_a_wrong_line_of_a_trace_is_named(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace"
    path.write_text('{"at_s": 0}\n\n' + line + "\n")
    assert simulate("--trace", str(path)) == 64
    assert f"{path}:3" in capsys.readouterr().err


def test_an_empty_trace_and_an_unwritable_file_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace"
    path.write_text("")
    assert simulate("--trace", str(path)) == 64
    path.write_text(write_trace([Ask(1.0)]))
    assert read_trace(path).asks == [Ask(1.0)]
    assert simulate("--trace", str(path), "--json", str(tmp_path / "no" / "f")) == 73
    assert "cannot be written" in capsys.readouterr().err


def test_a_plot_has_a_bar_for_each_policy_and_class() -> None:
    _, summed = run("home")
    drawn = plot("a <title>", {"edf": summed})
    assert "a &lt;title&gt;" in drawn
    assert "edf: 1.00 of the bound, fairness (Jain) 1.00" in drawn
    assert drawn.count(">100%, first token p95 ") == 3
    assert "fairness" in plot("fleet", {"share": summed | {"goodput": None}})
