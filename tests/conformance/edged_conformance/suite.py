"""Run all cases against one node over one version of MQTT.

Rule: verdicts are given after all messages were received; a reply that arrives after the end of its
case fails it, too.
"""

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edged_conformance.cases import OK, Action, Case, Client
from edged_conformance.errors import NodeUnavailableError, NotApplicableError, UsageError
from edged_conformance.exchange import Node
from edged_conformance.inbox import Inbox
from edged_conformance.matchers import mismatch, value_at
from edged_conformance.payload import client_root
from edged_conformance.peer import Broker, Peer
from edged_conformance.player import Player
from edged_conformance.rules import read_reply

_LATE = "another reply came after the end of the case"


@dataclass(slots=True)
class Result:
    """How one case ended."""

    case: Case
    version: str
    """Of MQTT."""
    problems: list[str] = field(default_factory=list)
    not_applicable: str | None = None
    """Why the case does not apply to this node."""
    duration_s: float = 0.0

    @property
    def is_other_version(self) -> bool:
        """Whether the case is not for this version of MQTT."""
        return self.version not in self.case.versions

    @property
    def verdict(self) -> str:
        """``passed``, ``FAILED`` or ``n/a``."""
        return "FAILED" if self.problems else "n/a" if self.not_applicable else "passed"


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a node."""

    broker: Broker
    prefix: str
    node: str
    other: Broker | None = None
    """The same broker for a second account."""


def run_cases(cases: Sequence[Case], target: Target, version: str) -> list[Result]:
    """Play cases over one version of MQTT; blocks.

    Raises:
        NodeUnavailableError: There is no broker, or no such node.
        UsageError: The node answers accounts only.
    """
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(contextlib.closing(Peer(target.broker, version)))
        run_id = f"c{secrets.token_hex(3)}"
        root, user = f"{target.prefix}/{target.node}", target.broker.address.username
        told = ("event", "info", "state", "availability")
        peer.subscribe(*(f"{root}/{name}" for name in told), *_answers(root, user))
        inbox = Inbox(peer, target.broker.timeout_s)
        info = _read_info(inbox, root)
        peers = {Client.SELF: peer, Client.ANYONE: peer}
        other = None
        if target.other is not None:
            other = target.other.address.username
            second = Peer(target.other, version, peer)
            peers[Client.OTHER] = stack.enter_context(contextlib.closing(second))
            second.subscribe(*_answers(root, other))
        if user is None:
            if info.get("identity") == "required":
                raise UsageError("--broker: the node answers accounts only; give a user name")
            peer.subscribe(f"reply/{run_id}/#")
        node = Node(target.prefix, target.node, info, user, other)
        return _play_all(cases, Player(peers, inbox, node, run_id), inbox, version)


def _answers(root: str, user: str | None) -> list[str]:
    return [f"{client_root(root, user)}/{name}/#" for name in ("response", "stream")]


def _read_info(inbox: Inbox, root: str) -> dict[str, Any]:
    topics = {name: f"{root}/{name}" for name in ("availability", "info")}
    if not inbox.wait_for(lambda: all(inbox.on(topic) for topic in topics.values())):
        missing = next(topic for topic in topics.values() if not inbox.on(topic))
        raise NodeUnavailableError(f"no such node: nothing is retained at {missing}")
    availability = inbox.on(topics["availability"])[-1].payload
    if availability != b"online":
        raise NodeUnavailableError(f"the node is {availability.decode(errors='replace')}")
    info = read_reply(inbox.on(topics["info"])[-1])
    if info is None:
        raise NodeUnavailableError(f"{topics['info']}: not a JSON object")
    return info


def _play_all(cases: Sequence[Case], player: Player, inbox: Inbox, version: str) -> list[Result]:
    results = []
    counted: list[tuple[Result, dict[str, int]]] = []
    for case in cases:
        result = Result(case, version, not_applicable=_why_not(case, player.node, version))
        results.append(result)
        if result.not_applicable is None:
            started_s = time.monotonic()
            try:
                result.problems = player.play(case)
            except NotApplicableError as error:
                result.not_applicable = str(error)
            except NodeUnavailableError as error:
                raise NodeUnavailableError(f"during '{case.title}': {error}") from error
            result.duration_s = time.monotonic() - started_s
            counted.append((result, player.reply_counts()))
    player.settle()
    for result, counts in counted:
        if any(len(inbox.on(topic)) > count for topic, count in counts.items()):
            result.problems.append(_LATE)
    return results


def _why_not(case: Case, node: Node, version: str) -> str | None:
    info = node.info
    if version not in case.versions:
        return f"only for MQTT {' and '.join(case.versions)}"
    if case.has_account not in (None, node.user is not None):
        return f"only {'with' if case.has_account else 'without'} an account"
    if node.other is None and any(step.by is Client.OTHER for step in case.steps):
        return "only with a second account: --other"
    for path, matcher in case.needs.items():
        problem = mismatch(value_at(info, path), matcher, {})
        if problem is not None:
            return f"info: {path}: {problem}"
    return next(_not_offered(case, info), None)


def _not_offered(case: Case, info: Mapping[str, Any]) -> Iterator[str]:
    """Yield the operations and formats that a case uses and the node does not offer."""
    for step in case.steps:
        if step.action in (Action.READ, Action.AGAIN) or OK not in step.expected.outcomes:
            continue
        if step.operation not in info.get("operations", []):
            yield f"info: operations lacks {step.operation}"
        kind = value_at(step.body, "format.type")
        if isinstance(kind, str) and kind not in info.get("formats", []):
            yield f"info: formats lacks {kind}"
