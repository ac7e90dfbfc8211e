"""The corrections in the state folder, and the thread that writes them.

Rule: bounded in number and bytes, whatever clients send: the oldest go, of the accounts that have
the most. Nothing of a correction is logged. A reply follows what is on the disk; a disk that fails
costs the correction, and says so.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from edged.bundle.plain_file import open_plain, opened_folder
from edged.daemon.atomic_file import WriteErrors
from edged.errors import ErrorCode
from edged.node.effects import KeepCorrection
from edged.node.events import CorrectionKept
from edged.protocol.request import Correction, Rejected
from edged.specialists.correcting import (
    agrees,
    agrees_written,
    checked_answer,
    checked_example,
)
from edged.specialists.corrections import MAX_NODE_BYTES
from edged.specialists.decider import Said
from edged.specialists.installed import Installed

_LOG = logging.getLogger(__name__)

MAX_BYTES = MAX_NODE_BYTES
MAX_LINE_BYTES = 32 << 10
# Of a full file so much goes at once: to drop a line, all of it is written anew.
_DROPPED = 1 / 8
_NOT_WRITTEN = Rejected(
    ErrorCode.INTERNAL, "state.folder: the correction cannot be written; see the node's log"
)
_FAILED = Rejected(ErrorCode.INTERNAL, "the correction could not be taken in; see the node's log")


class Line(NamedTuple):
    """A line of the file; of those about the same prompt, the last counts."""

    prompt: bytes
    """A digest of what was asked, its specialist and the account."""
    answer: bytes
    """A digest."""
    text: bytes
    """JSON, with its end."""
    user: str | None
    """The account; None without one."""

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> "Line":
        """Return the line for a correction."""
        text = json.dumps(members, ensure_ascii=False).encode() + b"\n"
        asked = [members["prompt"], members.get("messages"), members.get("inputs")]
        user = members.get("user")
        prompt = _digest([members["specialist"], *asked, user])
        return cls(prompt, _digest(members["answer"]), text, str(user) if user else None)


def _digest(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class CorrectionsFile:
    """One JSON object a line, the oldest first; used by one thread.

    Args:
        path: Of the file; others may read it at any time, and move or remove it.
        limit: Most lines.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._answers: OrderedDict[bytes, bytes] = OrderedDict()
        """What counts now, by prompt."""
        self._num_lines = 0
        self._seen: tuple[int, int] | None = None
        """The file as it was left; any other is read first."""

    @property
    def count(self) -> int:
        """Prompts with a correction, as of the last ``add``."""
        return len(self._answers)

    def add(self, lines: Sequence[Line]) -> list[bool]:
        """Write those that say something new, and have them on the disk; blocks.

        Returns:
            Whether each of them does.

        Raises:
            OSError: It is not known which of them the disk has.
        """
        seen, self._seen = self._seen, None
        with _open_private(self._path, os.O_APPEND) as file:
            status = os.fstat(file.fileno())
            # A full disk or a power cut may have left half a line.
            is_whole = (status.st_ino, status.st_size) == seen or self._read()
            is_new = [self._note(line) for line in lines]
            new = [line for line, is_it in zip(lines, is_new, strict=True) if is_it]
            text = b"".join(line.text for line in new)
            is_full = status.st_size + len(text) > MAX_BYTES or self._num_lines > self._limit
            if is_full or not is_whole:
                self._rewrite(new)
            elif new:
                file.write(text)
                file.flush()
                os.fdatasync(file.fileno())
                if not status.st_size:
                    self._sync_folder()
        status = self._path.stat()
        self._seen = status.st_ino, status.st_size
        return is_new

    def _note(self, line: Line) -> bool:
        """Take in a line; return whether it says something new."""
        if self._answers.get(line.prompt) == line.answer:
            return False
        self._answers[line.prompt] = line.answer
        self._answers.move_to_end(line.prompt)
        self._num_lines += 1
        return True

    def _read(self) -> bool:
        """Take in the file; return whether each of its lines is a correction."""
        self._answers.clear()
        self._num_lines = 0
        is_whole = True
        for line in map(_parsed, self._texts()):
            if line is None:
                is_whole = False
            else:
                self._note(line)
        return is_whole

    def _texts(self) -> Iterator[bytes]:
        """Yield the newest lines of the file."""
        with os.fdopen(open_plain(self._path, os.O_RDONLY), "rb") as file:
            skipped = os.fstat(file.fileno()).st_size - MAX_BYTES
            if skipped > 0:  # the daemon never writes so much
                file.seek(skipped)
                file.readline()
            left = MAX_BYTES  # it may grow meanwhile
            while left > 0 and (text := file.readline(MAX_LINE_BYTES)):
                left -= len(text)
                yield text

    def _rewrite(self, new: Sequence[Line]) -> None:
        """Write the file anew, with the newest of what counts, of each account a like share."""
        latest: OrderedDict[bytes, Line] = OrderedDict()
        for line in (*filter(None, map(_parsed, self._texts())), *new):
            latest[line.prompt] = line
            latest.move_to_end(line.prompt)
        most_lines = max(1, math.ceil(self._limit * (1 - _DROPPED)))
        kept = _newest(latest.values(), most_lines, lambda _: 1)
        kept = _newest(kept, int(MAX_BYTES * (1 - _DROPPED)), lambda line: len(line.text))
        new_path = self._path.with_name(self._path.name + ".new")
        with _open_private(new_path, os.O_TRUNC) as file:
            file.writelines(line.text for line in kept)
            file.flush()
            os.fsync(file.fileno())
        new_path.replace(self._path)
        self._sync_folder()
        self._answers = OrderedDict((line.prompt, line.answer) for line in kept)
        self._num_lines = len(kept)

    def _sync_folder(self) -> None:
        # Else a power cut could take the name of a file whose content is on the disk.
        with opened_folder(self._path.parent) as folder_fd:
            os.fsync(folder_fd)


def _newest(lines: Iterable[Line], most: int, cost: Callable[[Line], int]) -> list[Line]:
    """Return the newest lines that cost ``most`` together, in their order.

    An account has no more than an equal share, and what others leave of theirs.
    """
    lines, costs = list(lines), Counter[str | None]()
    for line in lines:
        costs[line.user] += cost(line)
    left = most
    for index, spent in enumerate(sorted(costs.values())):
        share = left // (len(costs) - index)
        if spent > share:
            break
        left -= spent
    else:
        return lines
    kept, spent_by, left = list[Line](), Counter[str | None](), most
    for line in reversed(lines):
        price = cost(line)
        spent_by[line.user] += price
        # There may be more accounts than places: then the newest lines have these.
        if price <= left and (spent_by[line.user] <= share or spent_by[line.user] == price):
            kept.append(line)
            left -= price
    return kept[::-1]


def _open_private(path: Path, flags: int) -> BinaryIO:
    return os.fdopen(open_plain(path, flags | os.O_WRONLY | os.O_CREAT), "wb")


def _parsed(text: bytes) -> Line | None:
    """Read a line of the file; None where it is no correction."""
    try:
        return Line.of(json.loads(text)) if text.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class CorrectionKeeper:
    """Check and keep corrections on a thread of its own.

    Args:
        file: Where they are kept; None where none are.
        installed: Returns the specialists that are installed now.
        kept: Called on the thread with one ``CorrectionKept`` for each; must not block.
        clock: Gives seconds since 1970.
    """

    def __init__(
        self,
        file: CorrectionsFile | None = None,
        installed: Callable[[], Installed] = Installed,
        kept: Callable[[CorrectionKept], None] = lambda _event: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._installed = installed
        self._kept = kept
        self._clock = clock
        self._errors = WriteErrors("state.folder: the corrections")
        self._queue: queue.SimpleQueue[KeepCorrection] = queue.SimpleQueue()
        if file is not None:
            threading.Thread(target=self._loop, name="corrections", daemon=True).start()

    def keep(self, effect: KeepCorrection) -> None:
        """Begin to keep a correction; the node bounds how many are on their way."""
        self._queue.put(effect)

    def _loop(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):  # one sync serves all in the queue
                while True:
                    batch.append(self._queue.get_nowait())
            try:
                events = self._take(batch)
            except Exception as error:  # noqa: BLE001 - each of them must be answered
                # The message may quote the prompt, which is not to be logged.
                _LOG.error("corrections: %s", type(error).__name__)
                events = [CorrectionKept(effect.key, rejected=_FAILED) for effect in batch]
            for event in events:
                self._kept(event)

    def _take(self, batch: Sequence[KeepCorrection]) -> list[CorrectionKept]:
        events, lines, agreed = [], {}, {}
        for effect in batch:
            try:
                lines[effect.key], agreed[effect.key] = self._checked(effect)
            except ValueError as error:
                rejected = Rejected(ErrorCode.BAD_REQUEST, str(error))
                events.append(CorrectionKept(effect.key, rejected=rejected))
        if self._file is None or not lines:
            return events
        is_new: list[bool] = []
        with self._errors.caught():
            is_new = self._file.add(list(lines.values()))
        if not is_new:
            return [*events, *(CorrectionKept(key, rejected=_NOT_WRITTEN) for key in lines)]
        for key, is_it in zip(lines, is_new, strict=True):
            events.append(CorrectionKept(key, self._file.count, is_it, agreed[key]))
        return events

    def _checked(self, effect: KeepCorrection) -> tuple[Line, bool | None]:
        """Return the line for a correction, and whether the specialist had said the same.

        Raises:
            ValueError: It cannot be kept.
        """
        correction, said = effect.correction, effect.said
        example, is_agreed = _example(self._installed(), correction, said)
        members = {
            "prompt": correction.prompt,
            **example,
            "specialist": correction.specialist,
            "time": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds"),
        }
        if correction.reply_to.user is not None:
            members["user"] = correction.reply_to.user
        if said is not None:
            members |= {"said": said.answer} | ({"unsure": True} if said.is_unsure else {})
        line = Line.of(members)
        if len(line.text) > MAX_LINE_BYTES:
            raise ValueError(f"answer: too long; at most {MAX_LINE_BYTES} bytes are kept with it")
        return line, is_agreed


def _example(
    installed: Installed, correction: Correction, said: Said | None
) -> tuple[dict[str, Any], bool | None]:
    """Return what can be learned of a correction, and whether the specialist had said the same.

    Raises:
        ValueError: The specialist is not installed, or cannot give the answer.
    """
    name, inputs = correction.specialist, correction.inputs
    if (writer := installed.writers.get(name)) is not None:
        example = checked_example(writer, correction.messages, inputs, correction.answer)
        answer = example["answer"]
        return example, None if said is None else agrees_written(writer, said, answer, inputs)
    specialist = installed.specialists.get(name)
    if specialist is None:
        raise ValueError(f"specialist: {name} is not installed on this node; see `info`")
    if inputs:
        raise ValueError(f"inputs: {name} writes no answers; leave them out")
    answer = checked_answer(specialist, correction.prompt, correction.answer)
    return {"answer": answer}, None if said is None else agrees(specialist, said, answer)
