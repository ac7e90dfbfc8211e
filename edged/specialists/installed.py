"""The specialists of a node: what a request may name, and the runs that it takes."""

from collections.abc import Callable, Mapping, Sequence

from edged.protocol.request import ChatMessage, Request, spoken
from edged.specialists.asked import PLAIN_MODEL, SpecialistDecider
from edged.specialists.decider import Decider, Run
from edged.specialists.features import Template
from edged.specialists.folder import Specialist


class UnknownSpecialistError(ValueError):
    """A request names a specialist that is not installed."""


class Installed:
    """The installed specialists; what changes them makes another one of these.

    Args:
        template: What they all read.
        width: Features of a token's hidden states.
        specialists: By name.
    """

    def __init__(
        self,
        template: Template | None = None,
        width: int = 0,
        specialists: Mapping[str, Specialist] | None = None,
    ) -> None:
        self._template = template
        self._width = width
        self.specialists = specialists or {}

    @property
    def size_bytes(self) -> int:
        """Memory that their arrays take."""
        return sum(specialist.size_bytes for specialist in self.specialists.values())

    def decider(
        self, request: Request, encode_chat: Callable[[Sequence[ChatMessage]], list[int]]
    ) -> Decider | None:
        """Return what decides a request; None where an answer is to be written.

        Raises:
            UnknownSpecialistError: It names what is not installed.
        """
        name = request.specialist
        if name is None:
            return None
        specialist = self._find("specialist", name)
        text = spoken(request.messages)
        reading = self.reading(text)
        plain = None
        if request.may_escalate and specialist.description.escalate == PLAIN_MODEL:
            plain = Run(encode_chat(request.messages))
        return SpecialistDecider(reading, self.specialists, name, plain)

    def reading(self, text: str) -> Run:
        """Return the run of a text in the template.

        Raises:
            ValueError: There is none.
        """
        if self._template is None:
            raise ValueError("there is no template without a model")
        ids, pooling = self._template.prompt(text, self._width)
        return Run(ids, pooling.again)

    def _find(self, path: str, name: str) -> Specialist:
        specialist = self.specialists.get(name)
        if specialist is None:
            known = ", ".join(sorted(self.specialists)) or "none"
            raise UnknownSpecialistError(
                f"{path}: {name} is not installed on this node; it has {known}"
            )
        return specialist
