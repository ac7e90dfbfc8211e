"""Compare the replies to the steps of a case with the expectations.

Rule: each problem names the path or property, the expected and the received value.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edged_conformance.cases import SILENCE, Action, Case, Step
from edged_conformance.exchange import Exchange, Node
from edged_conformance.inbox import Inbox
from edged_conformance.matchers import MISSING, mismatch, value_at
from edged_conformance.payload import Scope
from edged_conformance.peer import Received
from edged_conformance.rules import (
    Asked,
    check_reply,
    check_stream,
    outcome_of,
    read_reply,
    returned_data,
)

_MAY_HAVE_BEGUN = ("cancelled", "timeout", "internal", "crashed_before")
"""Errors of requests that may have been started."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One case with all its messages."""

    exchanges: Sequence[Exchange]
    inbox: Inbox
    node: Node
    scope: Scope
    is_v5: bool

    def problems(self, case: Case) -> list[str]:
        """Return all problems."""
        found = []
        for exchange in self.exchanges:
            start = f"step {exchange.label}: " if len(case.steps) > 1 else ""
            found += [start + problem for problem in self._check(exchange)]
        return found + self._check_order(case.order) + self._check_counts(case.at_least)

    def _check(self, exchange: Exchange) -> list[str]:
        expected = exchange.step.expected
        is_told = exchange.is_told(self.inbox, self.scope)
        problems = [] if is_told else [f"no event came with {dict(expected.told or {})}"]
        if exchange.step.action is Action.READ:
            return problems + self._check_retained(exchange)
        if expected.outcomes == (SILENCE,):
            return problems + self._check_silence(exchange)
        if not exchange.replies:
            missing = f"no reply came on {exchange.message.reply_topic}"
            return problems if exchange.may_be_silent else [*problems, missing]
        if len(exchange.replies) > 1:
            problems.append(f"{len(exchange.replies)} replies came, expected exactly one")
        message, reply = exchange.replies[0], exchange.reply
        if reply is None:
            return [*problems, f"the reply is not a JSON object: {message.payload[:80]!r}"]
        problems += check_reply(reply, message, self._asked(exchange))
        problems += _check_outcome(reply, exchange.step)
        problems += self._check_paths(_with_properties(reply, message), exchange.step)
        return problems + self._check_fragments(exchange, reply)

    def _check_silence(self, exchange: Exchange) -> list[str]:
        """Check that no reply came, neither on the requested nor on the default topic.

        The node may publish other messages on such a topic, so only replies count.
        """
        message = exchange.message
        topics = {message.reply_topic, f"{message.client}/response/{message.operation}"}
        came = [read_reply(m) or {} for t in topics for m in self.inbox.on(t, after=exchange.after)]
        replies = [members for members in came if {"status", "data"} <= set(members)]
        return [f"expected no reply, got {_told(members)}" for members in replies]

    def _asked(self, exchange: Exchange) -> Asked:
        message = exchange.message
        return Asked(
            self.node.name,
            exchange.message.operation,
            self.is_v5,
            message.request_id,
            returned_data(message.properties.get("correlation_data")),
            message.choices,
            message.decision,
        )

    def _check_paths(self, document: dict[str, Any], step: Step) -> list[str]:
        problems = []
        expected = {**step.expected.reply, **step.expected.when.get(outcome_of(document), {})}
        for path, matcher in (
            self.scope.of(step.label, self.node.user_of(step.by)).fill(expected).items()
        ):
            others = {other.label: value_at(other.reply, path) for other in self.exchanges}
            problem = mismatch(value_at(document, path), matcher, others)
            problems += [f"{path}: {problem}"] if problem else []
        return problems

    def _check_fragments(self, exchange: Exchange, reply: dict[str, Any]) -> list[str]:
        fragments = exchange.fragments(self.inbox)
        if exchange.is_streamed:
            # Fragments of a choice that was cut are in no reply text.
            is_cut = value_at(reply, "data.choice") is None
            text = None if is_cut else value_at(reply, "data.text")
            request_id = exchange.message.request_id or ""
            return check_stream(fragments, request_id, text if isinstance(text, str) else None)
        streams = [e for e in self.exchanges if e.message.is_stream and e is not exchange]
        others = {other.message.request_id for other in streams}
        may_have = exchange.message.is_stream and outcome_of(reply) in _MAY_HAVE_BEGUN
        if fragments and not may_have and exchange.message.request_id not in others:
            return [f"{len(fragments)} unexpected fragments came"]
        return []

    def _check_retained(self, exchange: Exchange) -> list[str]:
        messages = exchange.replies
        if not messages:
            return [f"nothing is retained at {exchange.message.reply_topic}"]
        text = messages[-1].payload.decode(errors="replace")
        document = read_reply(messages[-1]) or {"text": text}
        is_retained = any(message.is_retained for message in messages)
        return self._check_paths(document | {"@retained": is_retained}, exchange.step)

    def _check_order(self, labels: Sequence[str]) -> list[str]:
        came = {e.label: e.replies[0].number for e in self.exchanges if e.replies}
        actual = sorted((label for label in labels if label in came), key=lambda item: came[item])
        if actual == list(labels):
            return []
        return [f"order of the replies: expected {', '.join(labels)}; got {', '.join(actual)}"]

    def _check_counts(self, at_least: Mapping[str, int]) -> list[str]:
        came = Counter(outcome_of(exchange.reply or {}) for exchange in self.exchanges)
        return [
            f"expected {outcome} at least {number} times, got {dict(came)}"
            for outcome, number in at_least.items()
            if came[outcome] < number
        ]


def _with_properties(reply: dict[str, Any], message: Received) -> dict[str, Any]:
    given = {f"@{name}": value for name, value in message.properties.items()}
    if "@correlation_data" in given:
        given["@correlation_data"] = given["@correlation_data"].decode("latin-1")
    return reply | given | {"@topic": message.topic}


def _check_outcome(reply: dict[str, Any], step: Step) -> list[str]:
    outcomes = [outcome for outcome in step.expected.outcomes if outcome != SILENCE]
    if outcome_of(reply) not in outcomes:
        return [f"expected {' or '.join(outcomes)}, got {_told(reply)}"]
    names, message = step.expected.names, value_at(reply, "error.message")
    if names is None or (isinstance(message, str) and message.startswith(names)):
        return []
    return [f"error.message: expected to begin with {names}, got {message!r}"]


def _told(reply: dict[str, Any]) -> str:
    message = value_at(reply, "error.message")
    return outcome_of(reply) + ("" if message is MISSING else f" ({message})")
