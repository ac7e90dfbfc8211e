"""The specialists of a node: what a request may name, and the runs that it takes."""

from collections.abc import Callable, Mapping, Sequence

from edged.protocol.request import AUTO, ChatMessage, Request
from edged.specialists.asked import Choose, SpecialistDecider
from edged.specialists.decider import Decider, Run
from edged.specialists.features import Template
from edged.specialists.folder import Specialist
from edged.specialists.gate import Gate
from edged.specialists.names import PLAIN_MODEL

_NOTHING = "nothing is installed on this node; see `specialists` in its configuration"


class UnknownSpecialistError(ValueError):
    """A request names a specialist that is not installed."""


class Installed:
    """The installed specialists; what changes them makes another one of these.

    Args:
        template: What they all read.
        width: Features of a token's hidden states.
        specialists: By name.
        gate: Chooses among them.
    """

    def __init__(
        self,
        template: Template | None = None,
        width: int = 0,
        specialists: Mapping[str, Specialist] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._template = template
        self._width = width
        self.specialists = specialists or {}
        self.gate = gate

    @property
    def size_bytes(self) -> int:
        """Memory that their arrays take."""
        gate_bytes = 0 if self.gate is None else self.gate.size_bytes
        return gate_bytes + sum(one.size_bytes for one in self.specialists.values())

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
        choose = self._chosen("specialist", name)
        reading = self.reading(spoken(request.messages))
        plain = None
        if request.may_escalate and self._may_write(choose):
            plain = Run(encode_chat(request.messages))
        return SpecialistDecider(reading, self.specialists, choose, plain)

    def _may_write(self, choose: Choose) -> bool:
        """Return whether a specialist that decides may pass a prompt on to the plain model."""
        names = [choose] if isinstance(choose, str) else self.specialists
        return any(self.specialists[one].description.escalate == PLAIN_MODEL for one in names)

    def reading(self, text: str) -> Run:
        """Return the run of a text in the template.

        Raises:
            ValueError: There is none.
        """
        if self._template is None:
            raise ValueError("there is no template without a model")
        ids, pooling = self._template.prompt(text, self._width)
        return Run(ids, pooling.again)

    def _chosen(self, path: str, name: str) -> Choose:
        """Return the specialist of this name, or what chooses one.

        Raises:
            UnknownSpecialistError: There is none.
        """
        if name == AUTO and self.gate is not None:
            return self.gate.choose
        if name not in self.specialists:
            known = ", ".join(sorted(self.specialists))
            what = f"{name} is not installed on this node; it has {known}"
            raise UnknownSpecialistError(f"{path}: {what if known else _NOTHING}")
        return name


def spoken(messages: Sequence[ChatMessage]) -> str:
    """Return what a head reads of a dialogue: what was said, a line for each message."""
    # A system text is the same in all prompts of a client, and none of the examples has it.
    return "\n".join(message.content for message in messages if message.role != "system")
