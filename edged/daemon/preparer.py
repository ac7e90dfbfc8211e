"""The preparing thread: what a request needs before admission can decide on it.

Rule: one request at a time, and an error refuses this request alone. Only a short prompt, which
takes less time than another thread would add, is prepared on the main thread.
"""

import logging
import queue
import threading
import traceback
from bisect import bisect_left
from collections.abc import Callable, Sequence

from edged.engine.decoding import Constraint
from edged.engine.grammar import FormatError
from edged.engine.tokenizer import TemplateError
from edged.engine.writer_prompts import WritingError
from edged.errors import ErrorCode
from edged.node.effects import Prepare
from edged.node.events import Prepared
from edged.node.limits import Limits
from edged.protocol.request import ChatMessage, FormatType, OutputFormat, Rejected
from edged.specialists.installed import Installed, PromptWriter, UnknownSpecialistError
from edged.specialists.scoring import OptionError
from edged.transport.clock import boot_s

_LOG = logging.getLogger(__name__)

# Characters of a prompt, without format and dialogue, that is prepared on the main thread: that
# takes about as long as the way to another thread and back, which each reply would wait for.
SHORT_CHARACTERS = 512
# Tokens of a prompt with each question about it that has choices: so many take 0.1 s.
MAX_ASKED_TOKENS = 1 << 16
_REFUSALS = (FormatError, OptionError, TemplateError, UnknownSpecialistError, WritingError)
_INTERNAL = Rejected(ErrorCode.INTERNAL, "the request could not be taken in; see the node's log")


class Preparer:
    """Prepare requests on a thread of its own.

    Args:
        encode_chat: Returns a prompt's token ids; ``TemplateError`` when the template refuses it.
        compile_format: Returns the constraint of a format; ``FormatError`` when it has none.
        limits: Context and length of dialogues.
        emit: Called on the preparing thread with one ``Prepared`` for each; must not block.
        installed: Returns the specialists that are installed now.
        prompt_writer: Returns what a specialist that writes is run with; ``WritingError`` where
            the inputs are not what it needs.
    """

    def __init__(
        self,
        encode_chat: Callable[[Sequence[ChatMessage]], list[int]],
        compile_format: Callable[[OutputFormat], Constraint | None],
        limits: Limits,
        emit: Callable[[Prepared], None],
        installed: Callable[[], Installed] = Installed,
        prompt_writer: PromptWriter | None = None,
    ) -> None:
        self._encode_chat = encode_chat
        self._compile_format = compile_format
        self._limits = limits
        self._emit = emit
        self._installed = installed
        self._prompt_writer = prompt_writer
        self._queue: queue.SimpleQueue[Prepare] = queue.SimpleQueue()
        self._busy_since_s: float | None = None
        self._failures_logged: set[type[BaseException]] = set()
        self._thread = threading.Thread(target=self._loop, name="prepare", daemon=True)

    def start_thread(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def submit(self, request: Prepare) -> Prepared | None:
        """Prepare a short request here, and leave any other to the thread; returns at once.

        Returns:
            None when the thread will emit it.
        """
        asked = request.request
        is_plain = request.turn is None and asked.format.type is FormatType.TEXT
        is_plain = is_plain and not asked.questions
        # A grammar takes longer, and templates are for one thread.
        is_plain = is_plain and not self._installed().writes(asked.specialist)
        if is_plain and sum(len(m.content) for m in asked.messages) <= SHORT_CHARACTERS:
            return self.prepare(request)
        self._queue.put(request)
        return None

    @property
    def is_alive(self) -> bool:
        """Whether the preparing thread runs."""
        return self._thread.is_alive()

    def busy_s(self, now_s: float) -> float:
        """Return for how long the current request has been prepared; 0 when idle."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else max(0.0, now_s - since_s)

    def _loop(self) -> None:
        while True:
            request = self._queue.get()
            self._busy_since_s = boot_s()
            prepared = self.prepare(request)
            self._busy_since_s = None
            self._emit(prepared)

    def prepare(self, request: Prepare) -> Prepared:
        """Prepare one request; blocks for up to some 50 ms."""
        asked = request.request
        try:
            if num_scored := sum(question.specialist is None for question in asked.questions):
                # The prompt is read again for each: one that is too long is refused at once.
                whole_ids = self._encode_chat(asked.messages)
                if len(whole_ids) >= self._limits.max_model_len:
                    return Prepared(request.key, whole_ids)
                if num_scored * len(whole_ids) > MAX_ASKED_TOKENS:
                    return Prepared(request.key, rejected=_too_many(num_scored, len(whole_ids)))
            decider = self._installed().decider(asked, self._encode_chat, self._prompt_writer)
            if decider is not None:
                return Prepared(request.key, decider=decider)
            constraint = self._compile_format(asked.format)
            prompt_ids, num_forgotten = self._encode(request)
        except _REFUSALS as error:
            rejected = Rejected(ErrorCode.BAD_REQUEST, str(error))
            return Prepared(request.key, rejected=rejected)
        except Exception as error:  # noqa: BLE001 - the per-request boundary: it must reply
            self._log_once(error)
            return Prepared(request.key, rejected=_INTERNAL)
        return Prepared(request.key, prompt_ids, constraint, num_forgotten=num_forgotten)

    def _encode(self, request: Prepare) -> tuple[Sequence[int], int]:
        """Return the prompt, and how many of the oldest turns were left out to make it fit.

        Raises:
            TemplateError: The chat template refuses the messages.
        """
        turn, encode = request.turn, self._encode_chat
        if turn is None:
            return encode(request.request.messages), 0
        context = self._limits.max_model_len
        beside_answer = context - min(request.request.max_tokens, context // 2)
        room = min(beside_answer, self._limits.sessions.max_tokens)
        prompt_ids = encode(turn.prompt(0))
        if len(prompt_ids) <= room:
            return prompt_ids, 0
        # First without any: a message that is too long by itself costs two attempts, and no more.
        shortest = encode(turn.prompt(len(turn.history)))
        if len(shortest) > room // 2:
            return shortest, len(turn.history)

        def fits(num_forgotten: int) -> bool:
            # In half of the room: with all of it, each request would begin differently from the
            # one before, and nothing of it would be in the prefix cache.
            return len(encode(turn.prompt(num_forgotten))) <= room // 2

        # The fewest turns that make it fit.
        num_forgotten = bisect_left(range(len(turn.history)), x=True, key=fits)
        return encode(turn.prompt(num_forgotten)), num_forgotten

    def _log_once(self, error: Exception) -> None:
        # The message may quote the prompt, which is not to be logged.
        if type(error) not in self._failures_logged:
            self._failures_logged.add(type(error))
            where = traceback.extract_tb(error.__traceback__)[-1]
            _LOG.error("prepare: %s in %s:%d", type(error).__name__, where.filename, where.lineno)


def _too_many(num_questions: int, num_tokens: int) -> Rejected:
    return Rejected(
        ErrorCode.BAD_REQUEST,
        f"questions: {num_questions} with `choices` about a prompt of {num_tokens} tokens; at most "
        f"{MAX_ASKED_TOKENS} tokens are accepted together, so ask fewer at a time",
    )
