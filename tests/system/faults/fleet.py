"""Faults injected into several nodes behind a shared subscription of Mosquitto, under load.

    python -m tests.system.faults.fleet [FAULT...]        as root; about a minute for all

Each node is a daemon in its own network namespace, on a bridge with the broker. The requester
follows docs/scaling.md: it sets a deadline and retries unanswered requests with the same id. The
result of each fault is printed as a line of JSON.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edged.commands.local_broker import Broker, mosquitto, running
from tests.system.broker.daemons import Daemon
from tests.system.broker.wire_ends import Peer, settings
from tests.system.faults.requester import REPLIES, Outcome, Requester
from tests.system.faults.site import wait_for_state
from tests.tiny_model import write_tiny_bundle

HUB = "198.51.100.1"
NODES = ("attic", "cellar", "kitchen")
KEEPALIVE_S = 5
PARTITION_S = 12.0


class Node:
    """A daemon in its own network namespace."""

    def __init__(self, name: str, number: int, folder: Path, bundle: Path, broker: Broker) -> None:
        self.name = name
        self._folder = folder / name
        self._folder.mkdir()
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", "hub", "up")
        for words in ("link set lo up", f"address add 198.51.100.{number}/24 dev eth0"):
            _ip("-netns", name, *words.split())
        _ip("-netns", name, "link", "set", "eth0", "up")
        self._config = self._folder / "edged.yaml"
        document = {
            "node": name,
            "model": {"path": str(bundle)},
            "broker": {"host": HUB, "port": broker.port, "keepalive": f"{KEEPALIVE_S}s"},
            "group": {"name": "lab"},
            "state": {"file": str(self._folder / "state.json"), "interval": "1s"},
        }
        self._config.write_text(json.dumps(document), "utf-8")  # JSON is YAML

    def start(self) -> None:
        """Start it."""
        before = ("ip", "netns", "exec", self.name)
        self._daemon = Daemon(self._folder, ["--config", str(self._config)], before=before)

    def wait_until_joined(self) -> None:
        """Wait until the node is a member of the group."""
        wait_for_state(self._folder, lambda told: told["group"] == "joined")

    def stop(self, number: signal.Signals) -> None:
        """End it with a signal."""
        self._daemon.stop(number)
        self._daemon.close()
        (self._folder / "state.json").unlink()

    def cut(self, duration_s: float) -> None:
        """Cut its connection for a while; return when it is a member again."""
        _ip("link", "set", self.name, "down")
        wait_for_state(self._folder, lambda told: told["group"] != "joined")
        threading.Event().wait(duration_s)
        _ip("link", "set", self.name, "up")
        self.wait_until_joined()


def nothing(_nodes: list[Node]) -> None:
    """No fault."""


def node_loss(nodes: list[Node]) -> None:
    """Kill one node for good."""
    nodes[0].stop(signal.SIGKILL)


def rolling_restart(nodes: list[Node]) -> None:
    """Stop and start one node after the other."""
    for node in nodes:
        node.stop(signal.SIGTERM)
        node.start()
        node.wait_until_joined()


def partition(nodes: list[Node]) -> None:
    """Cut one node off the network for a while, in both directions."""
    nodes[0].cut(PARTITION_S)


# In this order: a lost node does not return.
FAULTS = {fault.__name__: fault for fault in (nothing, rolling_restart, partition, node_loss)}


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def _fleet(folder: Path) -> Iterator[tuple[Broker, list[Node]]]:
    """Start a broker on a bridge, and the nodes."""
    # Network names are files: kept in a folder that is removed with this process.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "hub", "type", "bridge")
    _ip("address", "add", f"{HUB}/24", "dev", "hub")
    _ip("link", "set", "hub", "up")
    broker = mosquitto(folder, port=1883, extra=[f"listener 1883 {HUB}"])
    bundle = write_tiny_bundle(folder / "bundle")
    with running(broker):
        nodes = [Node(name, 2 + i, folder, bundle, broker) for i, name in enumerate(NODES)]
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                node.wait_until_joined()
            yield broker, nodes
        finally:
            for node in nodes:
                node._daemon.close()


def _suffer(name: str, broker: Broker, nodes: list[Node]) -> Outcome:
    """Inject a fault under load, with answers before and after it."""
    peer = Peer(settings(broker, f"requester-{name}"), REPLIES)
    try:
        requester = Requester(peer, name)
        requester.keep_asking(lambda: requester.num_answered >= 30)
        fault = threading.Thread(target=FAULTS[name], args=(nodes,))
        fault.start()
        requester.keep_asking(lambda: not fault.is_alive())
        wanted = requester.num_answered + 30
        requester.keep_asking(lambda: requester.num_answered >= wanted)
        return requester.outcome(name)
    finally:
        peer.stop()


def _suffer_all(faults: list[str]) -> None:
    """Inject one fault after the other into one fleet."""
    with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder)) as (broker, nodes):
        for name in faults:
            print(json.dumps(asdict(_suffer(name, broker, nodes))), flush=True)


def main() -> int:
    """Print a line for each fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("faults", nargs="*", metavar="FAULT", default=list(FAULTS))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - FAULTS.keys():
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(FAULTS)}")
    faults = [name for name in FAULTS if name in arguments.faults]
    if arguments.inside:
        _suffer_all(faults)
    else:  # networks and mounts that end with the child
        program = [sys.executable, "-m", "tests.system.faults.fleet", "--inside", *faults]
        subprocess.run(["unshare", "--net", "--mount", *program], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
