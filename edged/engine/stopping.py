"""Find stop strings in text that arrives in chunks.

Rule: the chunk boundaries do not change the emitted text.
"""

from collections.abc import Sequence


class StopMatcher:
    """Pass text on until a stop string is complete; no part of it is emitted.

    Of several stop strings, the one that ends first counts; of those, the longest.

    Raises:
        ValueError: a stop string is empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if not all(stop):
            raise ValueError("a stop string is empty")
        self._stop = tuple(stop)
        self._held = ""
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._is_stopped

    def push(self, text: str) -> str:
        """Append text and return what can no longer be part of a stop string."""
        if self._is_stopped:
            return ""
        text = self._held + text
        start = self._match(text)
        if start is not None:
            self._is_stopped = True
            self._held = ""
            return text[:start]
        safe = len(text) - self._open_length(text)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """Return the text held back, at the end."""
        text, self._held = self._held, ""
        return text

    def _match(self, text: str) -> int | None:
        ends = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        return min(ends)[1] if ends else None

    def _open_length(self, text: str) -> int:
        """Return the length of the longest suffix of ``text`` that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            suffix = text[-length:]
            if any(stop.startswith(suffix) for stop in self._stop):
                return length
        return 0
