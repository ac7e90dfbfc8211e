"""The preparing thread: what a request needs before it can be decided on.

Rule: template, tokenizer and grammar of requests are used here only, on one request at a time;
whatever they raise is the outcome of this request alone, and its words stay out of the log.
"""

import logging
import queue
import threading
import time
import traceback
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

from edged.engine.grammar import FormatError
from edged.engine.steps import Constraint
from edged.engine.tokenizer import TemplateError
from edged.errors import ErrorCode
from edged.node.effects import Prepare
from edged.node.events import Prepared
from edged.node.limits import Limits
from edged.node.sessions import OpenTurn
from edged.protocol.request import ChatMessage, FormatType, OutputFormat, Rejected

_LOG = logging.getLogger(__name__)

# Characters of a prompt without format and dialogue that is prepared where it is asked for: some
# 0.1 ms, where another thread adds 0.2 ms to each reply (`edged bench --wire`).
SHORT_CHARACTERS = 512
_INTERNAL = Rejected(ErrorCode.INTERNAL, "the request could not be taken in; see the node's log")


class Language(Protocol):
    """Text to tokens and formats to constraints, for the model that is loaded."""

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the prompt's token ids; ``TemplateError`` when the template refuses them."""
        ...

    def compile_format(self, output_format: OutputFormat) -> Constraint | None:
        """Return what holds the answer to its format; ``FormatError`` when it cannot."""
        ...


class Preparer:
    """Prepare requests on a thread of its own.

    Args:
        language: Of the loaded model.
        limits: Context and length of dialogues.
        emit: Called on the preparing thread with one ``Prepared`` for each; must not block.
    """

    def __init__(
        self, language: Language, limits: Limits, emit: Callable[[Prepared], None]
    ) -> None:
        self._language = language
        self._limits = limits
        self._emit = emit
        self._queue: queue.SimpleQueue[Prepare] = queue.SimpleQueue()
        self._busy_since_s: float | None = None
        self._failures_logged: set[type[BaseException]] = set()
        self._thread = threading.Thread(target=self._loop, name="prepare", daemon=True)

    def start_thread(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def submit(self, request: Prepare) -> Prepared | None:
        """Have a request prepared by the thread; returns at once.

        Returns:
            What was prepared, if it is so little that the way to the thread and back takes longer.
        """
        if _is_short(request):
            return self.prepare(request)
        self._queue.put(request)
        return None

    @property
    def is_alive(self) -> bool:
        """Whether the preparing thread runs."""
        return self._thread.is_alive()

    def busy_s(self, now_s: float) -> float:
        """Return for how long the request in hand has been prepared; 0 when idle."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else max(0.0, now_s - since_s)

    def _loop(self) -> None:
        while True:
            request = self._queue.get()
            self._busy_since_s = time.monotonic()
            prepared = self.prepare(request)
            self._busy_since_s = None
            self._emit(prepared)

    def prepare(self, request: Prepare) -> Prepared:
        """Prepare one request; blocks for up to some 50 ms."""
        try:
            constraint = self._language.compile_format(request.request.format)
            prompt_ids, num_forgotten = self._encode(request)
        except (FormatError, TemplateError) as error:
            rejected = Rejected(ErrorCode.BAD_REQUEST, str(error))
            return Prepared(request.key, rejected=rejected)
        except Exception as error:  # noqa: BLE001 - the per-request boundary: it must reply
            self._log_once(error)
            return Prepared(request.key, rejected=_INTERNAL)
        return Prepared(request.key, prompt_ids, constraint, num_forgotten)

    def _encode(self, request: Prepare) -> tuple[Sequence[int], int]:
        """Return the prompt, and how many of the oldest turns it has no room for.

        When turns must go, half of the room is made: else each request would begin differently from
        the one before, and nothing of it would be in the KV cache.

        Raises:
            TemplateError: The chat template refuses the messages.
        """
        turn, encode = request.turn, self._language.encode_chat
        if turn is None:
            return encode(request.request.messages), 0
        room = self._room(request)
        prompt_ids = encode(turn.prompt(0))
        if len(prompt_ids) <= room:
            return prompt_ids, 0
        fits = _first_fitting(turn, lambda count: len(encode(turn.prompt(count))) <= room // 2)
        return encode(turn.prompt(fits)), fits

    def _room(self, request: Prepare) -> int:
        """Return how many tokens a prompt that goes on with a dialogue may have."""
        context = self._limits.max_model_len
        beside_answer = context - min(request.request.max_tokens, context // 2)
        return min(beside_answer, self._limits.sessions.max_tokens)

    def _log_once(self, error: Exception) -> None:
        if type(error) not in self._failures_logged:
            self._failures_logged.add(type(error))
            where = traceback.extract_tb(error.__traceback__)[-1]
            _LOG.error("prepare: %s in %s:%d", type(error).__name__, where.filename, where.lineno)


def _is_short(request: Prepare) -> bool:
    asked = request.request
    is_plain = request.turn is None and asked.format.type is FormatType.TEXT
    return is_plain and sum(len(m.content) for m in asked.messages) <= SHORT_CHARACTERS


def _first_fitting(turn: OpenTurn, fits: Callable[[int], bool]) -> int:
    """Return the fewest oldest turns without which the prompt fits; all if none is enough."""
    return bisect_left(range(len(turn.history)), x=True, key=fits)
