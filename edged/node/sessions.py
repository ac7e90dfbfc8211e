"""Dialogues that the node holds for its requesters, so that a request brings only what is new.

Rule: no clock and no tokens; times come in, messages go out. A dialogue changes only by an answer,
and one answer changes it once, however often its request is delivered. It is known by its session
id and by where its replies go, together: who does not get the answers cannot go on with it.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from edged.protocol.request import ChatMessage, Request, SessionState

Messages = tuple[ChatMessage, ...]

# Text of one dialogue; the oldest turns go first.
MAX_DIALOGUE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How much is held, and for how long."""

    count: int = 8
    """Dialogues; 0 switches them off."""
    max_tokens: int = 1536
    """Of a prompt that continues a dialogue."""
    idle_s: float = 1800.0

    @property
    def num_bytes(self) -> int:
        """Memory of all dialogues together, at most."""
        return self.count * MAX_DIALOGUE_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One request that was answered, with its answer; a second one like it is another."""

    key: str
    """The identity of the request."""
    messages: Messages

    @property
    def num_bytes(self) -> int:
        """Size of its text."""
        return sum(len(message.content.encode(errors="replace")) for message in self.messages)


@dataclass(slots=True)
class _Dialogue:
    turns: list[Turn] = field(default_factory=list)
    system: Messages | None = None
    """The system message, or none, that a request brought; None when no request said."""
    used_s: float = 0.0


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A request on its way to become a turn."""

    name: tuple[str, str]
    key: str
    system: Messages
    is_system_given: bool
    history: tuple[Turn, ...]
    messages: Messages
    """What is new."""
    repeats: Turn | None = None
    """The turn that this request made when it was answered before."""
    num_forgotten: int = 0
    """Oldest turns of the history that are left out."""

    def prompt(self, num_forgotten: int) -> Messages:
        """Give the whole dialogue up to the answer, without the oldest turns."""
        turns = self.history[num_forgotten:]
        told = [message for turn in turns for message in turn.messages]
        return (*self.system, *told, *self.messages)

    def forgetting(self, num_forgotten: int) -> "OpenTurn":
        """Return it with so many turns left out."""
        return replace(self, num_forgotten=num_forgotten)


class Dialogues:
    """The dialogues of all requesters, the longest unused first."""

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._dialogues: OrderedDict[tuple[str, str], _Dialogue] = OrderedDict()

    def count(self, now_s: float) -> int:
        """Count what is held, after forgetting what was idle for too long."""
        self._expire(now_s)
        return len(self._dialogues)

    def clear(self) -> None:
        """Forget all dialogues."""
        self._dialogues.clear()

    def open(
        self, request: Request, key: str, *, may_be_a_repeat: bool, now_s: float
    ) -> OpenTurn | None:
        """Put a request behind the turns before it; None when it names no session.

        Args:
            request: The request.
            key: Its identity.
            may_be_a_repeat: Whether the same key means the same request; it then stands again where
                it stood, instead of following itself.
            now_s: The time.
        """
        if request.session is None:
            return None
        self._expire(now_s)
        name = (request.session, request.reply_to.topic)
        dialogue = self._dialogues.get(name) or _Dialogue()
        system, messages = _split(request.messages)
        if not request.is_system_given and dialogue.system is not None:
            system = dialogue.system
        turns = tuple(dialogue.turns)
        repeats = next((t for t in turns if may_be_a_repeat and t.key == key), None)
        history = turns if repeats is None else turns[: turns.index(repeats)]
        return OpenTurn(name, key, system, request.is_system_given, history, messages, repeats)

    def close(self, turn: OpenTurn, text: str, now_s: float) -> SessionState:
        """Take an answer in, and say how the dialogue stands."""
        dialogue = self._dialogues.pop(turn.name, None) or _Dialogue(list(turn.history))
        self._dialogues[turn.name] = dialogue
        dialogue.used_s = now_s
        if turn.is_system_given:
            dialogue.system = turn.system
        forgotten = turn.history[: turn.num_forgotten]
        turns = dialogue.turns = [held for held in dialogue.turns if held not in forgotten]
        answered = Turn(turn.key, (*turn.messages, ChatMessage("assistant", text)))
        if turn.repeats in turns:
            turns[turns.index(turn.repeats)] = answered
        else:
            turns.append(answered)
        while sum(held.num_bytes for held in turns) > MAX_DIALOGUE_BYTES:
            del turns[0]
        while len(self._dialogues) > self._limits.count:
            self._dialogues.popitem(last=False)
        return SessionState(turn.name[0], len(turns), turn.num_forgotten)

    def _expire(self, now_s: float) -> None:
        for name, dialogue in list(self._dialogues.items()):
            if now_s - dialogue.used_s < self._limits.idle_s:
                break  # in the order of their last use
            del self._dialogues[name]


def _split(messages: Messages) -> tuple[Messages, Messages]:
    """Part the system message at the head from the rest."""
    head = 1 if messages[0].role == "system" else 0
    return messages[:head], messages[head:]
