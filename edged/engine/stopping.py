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
        self.is_stopped = False
        """Whether a stop string was found."""

    def push(self, text: str) -> str:
        """Append text and return what can no longer be part of a stop string."""
        if self.is_stopped:
            return ""
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        self.is_stopped = bool(ends)
        safe = min(ends)[1] if ends else len(text) - self._open_length(text)
        # What follows a stop string is no part of the answer.
        self._held = "" if ends else text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """Return the text held back, at the end."""
        text, self._held = self._held, ""
        return text

    def _open_length(self, text: str) -> int:
        """Return the length of the longest suffix of ``text`` that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
