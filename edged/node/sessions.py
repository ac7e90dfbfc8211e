"""Sessions: dialogues kept for their clients, so that a request sends only its new messages.

Rule: no clock and no tokens. A session changes only by an answer, and by each answer once, however
often its request is delivered. Its key is the session id with the client: only who gets the answers
can continue the dialogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edged.node.fair_store import FairStore
from edged.protocol.request import ChatMessage, Client, Request, SessionState

Messages = tuple[ChatMessage, ...]

# Text of one session; the oldest turns are forgotten first.
MAX_SESSION_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions are kept, how long, and up to which length."""

    count: int = 8
    """Sessions; 0 switches them off."""
    max_tokens: int = 1536
    """Of a prompt that continues a session."""
    idle_s: float = 1800.0


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One answered request with its answer; equal content does not make two turns the same."""

    key: str
    """The identity of the request."""
    messages: Messages

    @property
    def num_bytes(self) -> int:
        """Size of its text."""
        return sum(len(message.content.encode(errors="replace")) for message in self.messages)


@dataclass(slots=True)
class _Session:
    turns: list[Turn] = field(default_factory=list)
    system: Messages | None = None
    """The system message, or none, that a request brought; None when no request said."""
    used_s: float = 0.0
    num_dropped: int = 0
    """Turns for whose text there was no room after the latest answer."""


@dataclass(frozen=True, slots=True)
class PendingTurn:
    """A request that becomes a turn when it is answered."""

    name: tuple[str, Client]
    key: str
    system: Messages
    is_system_given: bool
    history: tuple[Turn, ...]
    messages: Messages
    """What is new."""
    repeats: Turn | None = None
    """The turn of this same request, from when it was answered before."""
    num_forgotten: int = 0
    """Oldest turns of the history that are left out."""

    def prompt(self, num_forgotten: int) -> Messages:
        """Return the whole dialogue up to the answer, without the oldest turns."""
        turns = self.history[num_forgotten:]
        earlier = [message for turn in turns for message in turn.messages]
        return (*self.system, *earlier, *self.messages)


class Sessions:
    """The sessions of all clients; beyond their number, the client with the most loses one."""

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._sessions: FairStore[tuple[str, Client], _Session] = FairStore(limits.count)

    def count(self, now_s: float) -> int:
        """Count the sessions that have not expired."""
        self._expire(now_s)
        return len(self._sessions)

    def clear(self) -> None:
        """Forget all sessions."""
        self._sessions.clear()

    def open(
        self, request: Request, key: str, *, may_be_a_repeat: bool, now_s: float
    ) -> PendingTurn | None:
        """Return a request with the turns before it; None when it names no session.

        Where it may be a repeat, an equal key means the same request: it then takes its former
        place in the session instead of following itself.
        """
        if request.session is None:
            return None
        self._expire(now_s)
        name = (request.session, request.reply_to.client)
        session = self._sessions.get(name) or _Session()
        system, messages = _split(request.messages)
        if not request.is_system_given and session.system is not None:
            system = session.system
        turns = tuple(session.turns)
        repeats = next((t for t in turns if may_be_a_repeat and t.key == key), None)
        history = turns if repeats is None else turns[: turns.index(repeats)]
        return PendingTurn(name, key, system, request.is_system_given, history, messages, repeats)

    def close(self, turn: PendingTurn, text: str, now_s: float) -> SessionState:
        """Add an answer, and return the state of the session.

        It has each turn that is dropped once: what the text of this answer leaves no room for is
        in the state after the next one.
        """
        # A session that expired during the answer goes on from what its prompt contained.
        session = self._sessions.get(turn.name) or _Session(list(turn.history))
        session.used_s = now_s
        if turn.is_system_given:
            session.system = turn.system
        # By identity: other requests may have added turns since this one was opened.
        forgotten = turn.history[: turn.num_forgotten]
        turns = [kept for kept in session.turns if kept not in forgotten]
        num_forgotten = session.num_dropped + len(session.turns) - len(turns)
        answered = Turn(turn.key, (*turn.messages, ChatMessage("assistant", text)))
        if turn.repeats in turns:
            turns[turns.index(turn.repeats)] = answered
        else:
            turns.append(answered)
        session.num_dropped = _num_beyond_room(turns)
        session.turns = turns[session.num_dropped :]
        _, client = turn.name
        self._sessions.put(turn.name, session, client)
        return SessionState(turn.name[0], len(session.turns), num_forgotten)

    def _expire(self, now_s: float) -> None:
        for name, session in list(self._sessions.items()):
            if now_s - session.used_s < self._limits.idle_s:
                break  # they are in the order of their last use
            self._sessions.pop(name)


def _num_beyond_room(turns: Sequence[Turn]) -> int:
    """Count the oldest turns that make the text too long."""
    sizes = [turn.num_bytes for turn in turns]
    excess_bytes, count = sum(sizes) - MAX_SESSION_BYTES, 0
    while excess_bytes > 0:
        excess_bytes -= sizes[count]
        count += 1
    return count


def _split(messages: Messages) -> tuple[Messages, Messages]:
    """Split the system message at the head from the rest."""
    head = 1 if messages[0].role == "system" else 0
    return messages[:head], messages[head:]
