"""``python -m benchmarks.simulate``: the command line.

Rule: only options and output.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from benchmarks.simulate import fleet
from benchmarks.simulate.baselines import run_fifo
from benchmarks.simulate.figures import Figures, figures
from benchmarks.simulate.live import LiveNode
from benchmarks.simulate.measure import measure, verdict
from benchmarks.simulate.node import run_edf
from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.plot import plot
from benchmarks.simulate.report import report
from benchmarks.simulate.trace import REFERENCE, Workload, read_trace, write_trace
from benchmarks.simulate.workloads import HOURS, WORKLOADS, Device, make_workload
from edged.commands.bench.command import OutputError
from edged.commands.broker_options import add_broker_options, read_broker_options
from edged.errors import ExitCode, UsageError
from edged.scheduling.latency_model import CostEstimate

_POLICIES = ("edf", "fifo", "fifo-drop")
_NODES = 100
NUM_SLOTS = 4
"""The default of the daemon."""
_MAX_SLOTS = 64
_MAX_HOURS = 1000.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks.simulate``."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workload", choices=[*WORKLOADS, "fleet"], help="generated requests")
    source.add_argument("--trace", type=Path, metavar="FILE", help="requests as lines of JSON")
    parser.add_argument(
        "--policy",
        action="append",
        choices=[*_POLICIES, *fleet.POLICIES],
        help="repeatable; edf is edged's own (default: all that apply)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--hours", type=float, default=HOURS, metavar="H", help="default: %(default)s"
    )
    parser.add_argument(
        "--nodes", type=int, default=_NODES, metavar="N", help="of the fleet (default: %(default)s)"
    )
    _add_device_options(parser)
    live = parser.add_argument_group("on a real node")
    live.add_argument(
        "--measure",
        action="store_true",
        help="play the workload on --node in real time, and compare the simulation; --cost is the"
        " cost.json in its state.folder",
    )
    add_broker_options(parser)
    outputs = parser.add_argument_group("files")
    outputs.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    outputs.add_argument("--plot", type=Path, metavar="FILE", help="bars as SVG")
    outputs.add_argument("--save-trace", type=Path, metavar="FILE", help="the requests")


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slots",
        type=int,
        default=NUM_SLOTS,
        metavar="K",
        help="answers in a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--cost", type=Path, metavar="FILE", help="a daemon's cost.json; default: a small device"
    )
    parser.add_argument(
        "--chunk-tokens",
        type=int,
        metavar="N",
        help="model.prefill_chunk_tokens (default: that of the cost)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the simulation, print the tables, and write the requested files.

    Raises:
        UsageError: An option or the trace is wrong.
        OutputError: A file cannot be written.
        NodeSilentError: The node to measure does not answer.
    """
    workload, runs = _measured(arguments) if arguments.measure else _simulated(arguments)
    print(report(runs), end="")
    if arguments.measure:
        print("\n" + verdict(runs))
    try:
        _write(workload, runs, arguments)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return ExitCode.OK


def _simulated(arguments: argparse.Namespace) -> tuple[Workload, dict[str, Figures]]:
    device = _device(arguments)
    is_fleet = arguments.workload == "fleet"
    workload = _workload(arguments, device)
    known = tuple(fleet.POLICIES) if is_fleet else _POLICIES
    policies = arguments.policy or known
    if unknown := [policy for policy in policies if policy not in known]:
        raise UsageError(f"--policy {unknown[0]}: this workload knows {', '.join(known)}")
    runs: dict[str, Figures] = {}
    for policy in policies:
        outcomes = (
            fleet.run_fleet(policy, arguments.nodes, arguments.seed, device)
            if is_fleet
            else _run(policy, workload, device.cost)
        )
        runs[policy] = figures(outcomes, workload, device.cost, has_bound=not is_fleet)
    return workload, runs


def _measured(arguments: argparse.Namespace) -> tuple[Workload, dict[str, Figures]]:
    if arguments.cost is None or arguments.workload == "fleet" or arguments.policy:
        raise UsageError("--measure: goes with --cost, and neither with a fleet nor a --policy")
    node = LiveNode(read_broker_options(arguments))
    try:
        device = Device(_device(arguments).cost, node.state.get("slots", 1))
        workload = _workload(arguments, device)
        return workload, measure(node, workload, device.cost)
    finally:
        node.close()


def _workload(arguments: argparse.Namespace, device: Device) -> Workload:
    if not 0 < arguments.hours <= _MAX_HOURS:
        raise UsageError(f"--hours {arguments.hours}: more than 0, at most {_MAX_HOURS:.0f}")
    if arguments.nodes < 1:
        raise UsageError(f"--nodes {arguments.nodes}: at least 1")
    if arguments.trace:
        workload = replace(read_trace(arguments.trace), num_slots=device.num_slots)
    elif arguments.workload == "fleet":
        asks = fleet.fleet_asks(arguments.nodes, arguments.seed, device)
        workload = Workload("fleet", asks, device.num_slots)
    else:
        workload = make_workload(arguments.workload, arguments.seed, device, arguments.hours)
    if not workload.asks:
        raise UsageError("no requests: the trace is empty, or --hours too short")
    return workload


def _run(policy: str, workload: Workload, device: CostEstimate) -> list[Outcome]:
    if policy == "edf":
        return run_edf(workload, device).outcomes
    return run_fifo(workload, device, drops=policy == "fifo-drop")


def _device(arguments: argparse.Namespace) -> Device:
    cost = _read_cost(arguments.cost) if arguments.cost else REFERENCE
    if not 1 <= arguments.slots <= _MAX_SLOTS:
        raise UsageError(f"--slots {arguments.slots}: 1 to {_MAX_SLOTS}")
    if arguments.chunk_tokens is None:
        return Device(cost, arguments.slots)
    if arguments.chunk_tokens < 1:
        raise UsageError(f"--chunk-tokens {arguments.chunk_tokens}: at least 1")
    return Device(replace(cost, chunk_tokens=arguments.chunk_tokens), arguments.slots)


def _read_cost(file: Path) -> CostEstimate:
    try:
        members = json.loads(file.read_text(encoding="utf-8"))
        return CostEstimate(**members.get("cost", members))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"--cost {file}: {error}") from error


def _write(workload: Workload, runs: dict[str, Figures], arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    if arguments.plot is not None:
        title = f"{workload.name}: outcomes of the requests"
        arguments.plot.write_text(plot(title, runs), encoding="utf-8")
    if arguments.save_trace is not None:
        arguments.save_trace.write_text(write_trace(workload.asks), encoding="utf-8")
