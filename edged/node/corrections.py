"""Corrections: what a specialist should have said, kept on the disk and compared with its answers.

Rule: as for requests, each delivery gets one reply, after the correction is on the disk; however
slow that is, no more than a few are on their way there. Of a prompt only a digest is remembered.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from edged.errors import ErrorCode
from edged.node.effects import KeepCorrection
from edged.node.events import CorrectionKept
from edged.node.fair_store import FairStore
from edged.node.replies import Replies
from edged.node.request_state import RequestState
from edged.node.state import NodeState
from edged.protocol.request import (
    Answer,
    Client,
    Correction,
    CorrectionOutcome,
    Rejected,
    Reply,
    Request,
    spoken,
)
from edged.specialists.decider import Said, specialist_answers

# On their way to the disk; it takes all of them at once.
MAX_IN_HAND = 8
# Answers that a correction is compared with, and the longest of them: 0.5 MB in all at most.
MAX_REMEMBERED = 128
MAX_SAID_CHARACTERS = 1024
_TOO_MANY = Rejected(
    ErrorCode.QUEUE_FULL,
    f"{MAX_IN_HAND} corrections wait for the disk already",
    retry_after_s=1.0,
)
_TOO_SLOW = Rejected(
    ErrorCode.TIMEOUT, "the disk did not take the correction in time; send it again"
)


class Corrections:
    """Have corrections kept.

    Args:
        node: The state of the node.
        replies: What answers them.
    """

    def __init__(self, node: NodeState, replies: Replies) -> None:
        self._node = node
        self._replies = replies
        self._in_hand: dict[int, RequestState | None] = {}
        """By their keys; None is answered already, because the disk took too long."""
        self._said: FairStore[bytes, Said] = FairStore(MAX_REMEMBERED)

    def next_tick_s(self) -> float | None:
        """Return when the first one will have waited too long; None if none waits."""
        waiting = (state.expires_s for state in self._in_hand.values() if state is not None)
        return min(waiting, default=None)

    def remember(self, request: Request, answer: Answer) -> None:
        """Remember what specialists answered, for a correction of it."""
        is_kept = self._node.limits.defaults.keeps_corrections
        if not is_kept or len(answer.text) > MAX_SAID_CHARACTERS:
            return
        for part in specialist_answers(answer):
            # What is written in few characters may be long as JSON.
            is_short = len(json.dumps(part.said.answer)) <= MAX_SAID_CHARACTERS + len('""')
            if part.specialist is not None and is_short:
                client = request.reply_to.client
                prompt = spoken(request.messages)
                key = _digest(client, part.specialist, prompt, request.inputs)
                self._said.put(key, part.said, client)

    def take(self, state: RequestState, correction: Correction) -> None:
        """Take in a decoded correction."""
        node = self._node
        state.identify(correction.reply_to, node.now_s + node.limits.defaults.timeout_s)
        if not self._replies.open(state):
            return
        # Those that the disk took too long for are still on their way there.
        if len(self._in_hand) >= MAX_IN_HAND:
            self._replies.refuse(state, correction.reply_to, _TOO_MANY)
            return
        self._in_hand[state.key] = state
        client = correction.reply_to.client
        name, inputs = correction.specialist, correction.inputs
        said = self._said.get(_digest(client, name, correction.prompt, inputs))
        node.emit(KeepCorrection(state.key, correction, said))

    def kept(self, event: CorrectionKept) -> None:
        """Answer a correction that is on the disk, or was refused on its way there."""
        if event.key not in self._in_hand:
            return
        state = self._in_hand.pop(event.key)
        if event.is_new:
            self._node.metrics.count_correction(is_agreed=event.is_agreed)
        if state is None:
            return
        if event.rejected is not None:
            self._replies.refuse(state, state.reply_to, event.rejected)
        else:
            self._replies.answer(state, Reply(state.reply_to, CorrectionOutcome(event.count)))

    def expire(self) -> None:
        """Refuse those that the disk took too long for."""
        for key, state in self._in_hand.items():
            if state is not None and state.expires_s <= self._node.now_s:
                self._in_hand[key] = None
                self._replies.refuse(state, state.reply_to, _TOO_SLOW)


def _digest(client: Client, specialist: str, prompt: str, inputs: Mapping[str, Any]) -> bytes:
    # A correction may come back on another topic: without an account all ask as one.
    given = json.dumps(inputs, sort_keys=True)
    content = repr((client.user, specialist, prompt, given)).encode(errors="replace")
    return hashlib.blake2b(content, digest_size=16).digest()
