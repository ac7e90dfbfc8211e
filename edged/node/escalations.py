"""What a specialist is unsure of, passed on to another node: one hop, inside the same deadline.

Rule: the node's own unsure answer stands, and is the reply where nothing better comes in time; so
each request has its one reply, whatever the other node does.
"""

import hashlib
from dataclasses import dataclass, replace

from edged.node.generation import Finished
from edged.node.replies import Replies
from edged.node.request_state import RequestState
from edged.node.state import NodeState
from edged.protocol.escalation import encode_escalation
from edged.protocol.request import Answer, FinishReason, ReplyAddress
from edged.scheduling.queued_request import RequestPhase

# Of the time to the deadline, what the other node has; the rest is for the way back.
WAITED_SHARE = 0.9
# With less time left nothing is passed on.
MIN_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class _Waiting:
    state: RequestState
    finished: Finished
    """With the own answer."""
    until_s: float
    handle: int
    """Of the message to the other node."""


class Escalations:
    """Ask another node.

    Args:
        node: The state of the node.
        replies: What answers the requests.
    """

    def __init__(self, node: NodeState, replies: Replies) -> None:
        self._node = node
        self._replies = replies
        self._waiting: dict[str, _Waiting] = {}
        """By the id that the other node was given."""

    @property
    def states(self) -> list[RequestState]:
        """The requests that wait for the other node."""
        return [one.state for one in self._waiting.values()]

    def next_tick_s(self) -> float | None:
        """Return when the first one will have waited too long; None if none waits."""
        return min((one.until_s for one in self._waiting.values()), default=None)

    def pass_on(self, state: RequestState, finished: Finished) -> bool:
        """Pass a request on that has ended here, if it may be; return whether it was."""
        node, answer = self._node, finished.outcome
        target, name = node.limits.escalation, None
        if isinstance(answer, Answer) and answer.finish_reason is FinishReason.UNSURE:
            name = answer.detail.get("specialist") if answer.may_leave else None
        wait_s = (state.request.deadline_s - node.now_s) * WAITED_SHARE
        is_possible = wait_s >= MIN_WAIT_S and len(self._waiting) < node.limits.num_slots
        may_be = state.request.may_escalate and not (state.is_cancelled or node.is_draining)
        if target is None or name is None or not (is_possible and may_be):
            return False
        token = hashlib.blake2b(b"%d" % state.key, key=target.secret, digest_size=16).hexdigest()
        address = ReplyAddress(target.reply_topic, token, token.encode())
        message = encode_escalation(state.request, name, address, target.request_topic, wait_s)
        handle = self._replies.send(message)
        self._waiting[token] = _Waiting(state, finished, node.now_s + wait_s, handle)
        state.phase = RequestPhase.ESCALATED
        return True

    def replied(self, token: str, answer: Answer | None) -> None:
        """Take what the other node says; None where that is no answer."""
        if token in self._waiting:
            self._end(token, answer)

    def undelivered(self, handle: int) -> None:
        """End what the broker did not take."""
        for token, one in list(self._waiting.items()):
            if one.handle == handle:
                self._end(token, None)

    def expire(self) -> None:
        """Answer those that the other node has not answered in time."""
        for token, one in list(self._waiting.items()):
            if one.until_s <= self._node.now_s:
                self._end(token, None)

    def drain(self) -> None:
        """Answer all of them now."""
        for token in list(self._waiting):
            self._end(token, None)

    def abandon(self, state: RequestState) -> None:
        """Forget one that was cancelled; what the other node says of it is dropped."""
        self._waiting = {
            token: one for token, one in self._waiting.items() if one.state is not state
        }

    def _end(self, token: str, answer: Answer | None) -> None:
        one, target = self._waiting.pop(token), self._node.limits.escalation
        outcome = one.finished.outcome
        if answer is not None and target is not None and isinstance(outcome, Answer):
            kept = {key: outcome.detail[key] for key in _KEPT if key in outcome.detail}
            detail = {**kept, "escalated_to": target.name, **answer.detail}
            outcome = replace(answer, detail=detail)
        finished = replace(one.finished, outcome=outcome, finished_s=self._node.now_s)
        self._replies.finish(one.state, outcome, finished)


# Of the own answer, what is true of the other node's as well: whose question it was.
_KEPT = ("specialist", "specialists")
