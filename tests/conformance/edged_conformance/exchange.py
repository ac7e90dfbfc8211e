"""A step and its replies: which message answers which request.

Rule: replies are matched by topic first, because each request of a run has its own topic; id and
Correlation Data only matter if requests share a topic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edged_conformance.cases import SILENCE, Client, Step
from edged_conformance.inbox import Inbox
from edged_conformance.matchers import value_at
from edged_conformance.payload import Message, Scope
from edged_conformance.peer import Received
from edged_conformance.rules import check_members, outcome_of, read_reply, returned_data


@dataclass(frozen=True, slots=True)
class Node:
    """The node under test."""

    prefix: str
    name: str
    info: Mapping[str, Any]
    user: str | None = None
    """The account that asks."""
    other: str | None = None
    """A second account."""

    @property
    def root(self) -> str:
        """Root of its topics."""
        return f"{self.prefix}/{self.name}"

    def user_of(self, client: Client) -> str | None:
        """Return the account that sends a step; None for who has none."""
        return {Client.SELF: self.user, Client.OTHER: self.other}.get(client)


@dataclass(slots=True, eq=False)
class Exchange:
    """One step that was sent."""

    step: Step
    message: Message
    after: int
    """Number of the last message received before it was sent."""
    replies: list[Received] = field(default_factory=list)
    """Its replies; more than one is an error."""

    @property
    def label(self) -> str:
        """Name of the step in its case."""
        return self.step.label

    @property
    def may_be_silent(self) -> bool:
        """Whether no reply is an allowed outcome."""
        return SILENCE in self.step.expected.outcomes

    @property
    def reply(self) -> dict[str, Any] | None:
        """The terminal reply, if received and a JSON object."""
        return read_reply(self.replies[0]) if self.replies else None

    @property
    def is_streamed(self) -> bool:
        """Whether fragments are expected."""
        return self.message.is_stream and outcome_of(self.reply or {}) == "ok"

    def is_told(self, inbox: Inbox, scope: Scope) -> bool:
        """Return whether the expected event was received; True if none is expected."""
        if self.step.expected.told is None:
            return True
        expected = scope.fill(self.step.expected.told)
        events = map(read_reply, inbox.on(f"{scope.root}/event", after=self.after))
        return any(not check_members(event, expected) for event in events)

    def fragments(self, inbox: Inbox) -> list[Received]:
        """Return the messages on the topic of its stream."""
        topic = f"{self.message.client}/stream/{self.message.request_id}"
        return inbox.on(topic, after=self.after)

    def is_stream_over(self, inbox: Inbox) -> bool:
        """Return whether the last fragment was received."""
        fragments = map(read_reply, self.fragments(inbox))
        return any(value_at(fragment, "done") is True for fragment in fragments)


def assign(exchange: Exchange, exchanges: Sequence[Exchange], inbox: Inbox) -> bool:
    """Find the replies to one exchange of a case; return whether there is one."""
    topic = exchange.message.reply_topic
    group = [other for other in exchanges if _key(other) == _key(exchange)]
    came = inbox.on(topic, after=group[0].after)
    if any(other.message.reply_topic == topic and other not in group for other in exchanges):
        came = [message for message in came if _belongs(message, exchange)]
    place = group.index(exchange)
    # The last of several equal requests gets all remaining replies, so that none is missed.
    exchange.replies = came[place:] if exchange is group[-1] else came[place : place + 1]
    return bool(exchange.replies)


def _key(exchange: Exchange) -> tuple[str, object, str | None]:
    message = exchange.message
    return message.reply_topic, message.properties.get("correlation_data"), message.request_id


def _belongs(message: Received, exchange: Exchange) -> bool:
    """Return whether a message on a shared reply topic has the id and data of this exchange."""
    data = returned_data(exchange.message.properties.get("correlation_data"))
    if message.properties and message.properties.get("correlation_data") != data:
        return False
    return bool(value_at(read_reply(message), "id") == exchange.message.request_id)
