"""Play one case: send its steps and wait for the replies.

Rule: no sleeps. A marker, a request sent after all others, shows that no more replies will come:
its reply arrives after theirs.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edged_conformance.cases import Action, Case, Client, Step, Wait
from edged_conformance.exchange import Exchange, Node, assign
from edged_conformance.inbox import Inbox
from edged_conformance.payload import Message, Scope, build
from edged_conformance.peer import Peer
from edged_conformance.verdict import Verdict

_EVENT_TRIES = 10
"""7 s in total: a node publishes at least one event of each kind every 6 s."""
_NO_MARKER = "the node stopped answering: the request sent after the case got no reply"
# The marker comes after all queued requests, by the lowest class and a deadline later than those of
# the cases; and after concurrent ones, on a node with several slots, by a longer answer.
_LAST: dict[str, Any] = {
    "prompt": "x",
    "max_tokens": 32,
    "priority": "background",
    "timeout_ms": 60_000,
}
_LONG = {"format": {"type": "choice", "choices": ["0123456789abcdef" * 2]}}


class Player:
    """Play the cases of one run on one connection.

    Args:
        peers: By who sends: connected, and subscribed to all that the node sends to them.
        inbox: Messages received by all of them.
        node: The node under test.
        run_id: Unique prefix of ids and reply topics in this run.
    """

    def __init__(self, peers: Mapping[Client, Peer], inbox: Inbox, node: Node, run_id: str) -> None:
        self.node = node
        self._peers = peers
        self._peer = peers[Client.SELF]
        self._inbox = inbox
        self._run_id = run_id
        self._num_cases = 0
        self._num_markers = 0
        self._exchanges: list[Exchange] = []
        self._scope = self._next_scope()

    def play(self, case: Case) -> list[str]:
        """Play a case and return its problems; blocks until all replies are received.

        Raises:
            NotApplicableError: It needs a member that ``info`` lacks.
        """
        self._scope = self._next_scope()
        self._exchanges = []
        for step in case.steps:
            times = self._scope.fill(step.times)
            for number in range(times):
                label = step.label if times == 1 else f"{step.label}-{number + 1}"
                self._take(replace(step, label=label))
        for exchange in self._exchanges:
            self._await_reply(exchange)
        if not self._pass_markers():
            return [_NO_MARKER]
        for exchange in self._exchanges:
            assign(exchange, self._exchanges, self._inbox)
        is_v5 = self._peer.is_v5
        verdict = Verdict(self._exchanges, self._inbox, self.node, self._scope, is_v5)
        return verdict.problems(case)

    def settle(self) -> None:
        """Wait until the node has processed all requests, including late replies."""
        self._pass_markers()

    def reply_counts(self) -> dict[str, int]:
        """Count the messages on each reply topic used by the latest case only."""
        topics = {exchange.message.reply_topic for exchange in self._exchanges}
        return {topic: len(self._inbox.on(topic)) for topic in topics if self._run_id in topic}

    def _next_scope(self) -> Scope:
        self._num_cases += 1
        case_id = f"{self._run_id}-{self._num_cases}"
        node = self.node
        return Scope(node.prefix, node.name, node.info, case_id, user=node.user)

    def _take(self, step: Step) -> None:
        exchange = Exchange(step, self._message(step), self._inbox.num_received)
        message = exchange.message
        if step.action is Action.READ:
            exchange.after = 0
        else:
            self._listen(step, message)
            self._peers[step.by].publish(
                message.topic,
                message.payload,
                message.properties,
                qos=step.qos,
                is_retained=step.is_retained,
            )
        self._exchanges.append(exchange)
        if step.expected.told is not None:
            self._await_event(exchange)
        if step.wait is Wait.REPLY:
            self._await_reply(exchange)
        elif step.wait is Wait.FRAGMENT:
            self._inbox.wait_for(lambda: exchange.fragments(self._inbox) or self._assign(exchange))

    def _message(self, step: Step) -> Message:
        if step.action is Action.READ:
            topic = f"{self.node.root}/{step.body}"
            return Message(topic, b"", {}, topic, None)
        if step.action is Action.AGAIN:
            return next(e.message for e in self._exchanges if e.label == step.body)
        scope = self._scope.of(step.label, self.node.user_of(step.by))
        return build(step, scope, is_v5=self._peer.is_v5)

    def _listen(self, step: Step, message: Message) -> None:
        """Subscribe to a reply topic outside the run's subscriptions, if it is valid."""
        topic, client = message.reply_topic, step.by
        starts = [f"reply/{self._run_id}"] if self.node.user is None else []
        # What everybody may read is subscribed to where it is needed.
        starts += [] if client is Client.ANYONE else [f"{message.client}/"]
        if not topic.startswith(tuple(starts)) and topic and not set("$+#\0") & set(topic):
            self._peers[client].subscribe(topic)

    def _assign(self, exchange: Exchange) -> bool:
        return assign(exchange, self._exchanges, self._inbox)

    def _await_event(self, exchange: Exchange) -> None:
        """Send a message again until its event is published: events are rate-limited."""
        for _ in range(_EVENT_TRIES):
            if self._inbox.wait_for(lambda: exchange.is_told(self._inbox, self._scope), 0.7):
                break
            message = exchange.message
            self._peer.publish(message.topic, message.payload, message.properties)

    def _await_reply(self, exchange: Exchange) -> None:
        if exchange.may_be_silent:
            return
        self._inbox.wait_for(lambda: self._assign(exchange))
        if exchange.is_streamed:
            self._inbox.wait_for(lambda: exchange.is_stream_over(self._inbox))

    def _pass_markers(self) -> bool:
        """Send a marker on each topic and wait for the replies; return whether all came."""
        elsewhere = f"reply/{self._run_id}/"
        topics = [f"{self._scope.client}/response/generate/{self._run_id}-marker"]
        if any(e.message.reply_topic.startswith(elsewhere) for e in self._exchanges):
            topics.append(f"{elsewhere}marker")
        return all(self._pass_marker(topic) for topic in topics)

    def _pass_marker(self, topic: str) -> bool:
        self._num_markers += 1
        after = self._inbox.num_received
        members: dict[str, Any] = {"id": f"{self._run_id}-m{self._num_markers}"}
        members["response_topic"] = topic
        # A request without a reply may still be queued: queue the marker behind it.
        is_silent = any(exchange.may_be_silent for exchange in self._exchanges)
        operation = "generate" if is_silent else "cancel"
        if is_silent:
            members |= _LAST
            members |= _LONG if "choice" in self.node.info.get("formats", []) else {}
        step = Step(Action.SEND, {"json": members}, "marker", operation=operation)
        message = build(step, self._scope.of("marker", self.node.user), is_v5=False)
        self._peer.publish(message.topic, message.payload, {})
        return self._inbox.wait_for(lambda: self._inbox.on(topic, after=after))
