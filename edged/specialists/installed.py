"""The specialists of a node: what a request may name, and the runs that it takes."""

from collections.abc import Mapping

from edged.protocol.request import AUTO, OnDeadline, Question, Request, spoken
from edged.specialists.asked import Choose, SpecialistDecider
from edged.specialists.decider import Decider, Run
from edged.specialists.features import Template
from edged.specialists.folder import Specialist
from edged.specialists.gate import Gate
from edged.specialists.names import PLAIN_MODEL
from edged.specialists.questions import QuestionsDecider
from edged.specialists.scoring import ChoiceDecider, EncodeChat, OptionScoring
from edged.specialists.writer import Writer

_NOTHING = "nothing is installed on this node; see `specialists` in its configuration"


class UnknownSpecialistError(ValueError):
    """A request names a specialist that is not installed."""


class Installed:
    """The installed specialists; what changes them makes another one of these.

    Args:
        template: What they all read.
        width: Features of a token's hidden states.
        specialists: By name.
        scoring: What decides for an option without a specialist.
        gate: Chooses among them.
        writers: The specialists that write, by name.
    """

    def __init__(
        self,
        template: Template | None = None,
        width: int = 0,
        specialists: Mapping[str, Specialist] | None = None,
        *,
        scoring: OptionScoring | None = None,
        gate: Gate | None = None,
        writers: Mapping[str, Writer] | None = None,
    ) -> None:
        self._template = template
        self._width = width
        self._scoring = scoring
        self.specialists = specialists or {}
        self.gate = gate
        self.writers = writers or {}

    @property
    def size_bytes(self) -> int:
        """Memory that their arrays take."""
        gate_bytes = 0 if self.gate is None else self.gate.size_bytes
        heads_bytes = sum(one.size_bytes for one in self.specialists.values())
        adapters = [one.adapter.size_bytes for one in self.writers.values()]
        return gate_bytes + heads_bytes + sum(adapters)

    def held_bytes(self, num_slots: int) -> int:
        """Return the memory that they take where answers of so many slots may have an adapter."""
        slot_bytes = max((one.adapter.slot_bytes for one in self.writers.values()), default=0)
        return self.size_bytes + num_slots * slot_bytes

    def decider(self, request: Request, encode_chat: EncodeChat) -> Decider | None:
        """Return what decides a request; None where an answer is to be written.

        Raises:
            UnknownSpecialistError: It names what is not installed.
            OptionError: An option cannot be scored.
        """
        if request.questions:
            return self._questions(request, encode_chat)
        if request.format.is_scored:
            choice = Question("", choices=request.format.choices)
            return self._scored("format.choices", choice, request, encode_chat)
        name = request.specialist
        if name is None or name in self.writers:
            return None
        choose = self._chosen("specialist", name)
        if request.inputs:
            raise UnknownSpecialistError(f"inputs: {name} writes no answers; leave them out")
        reading = self.reading(spoken(request.messages))
        plain = None
        if request.may_escalate and self._may_write(choose):
            plain = Run(encode_chat(request.messages))
        return SpecialistDecider(
            reading, self.specialists, choose, plain, may_escalate=request.may_escalate
        )

    def _may_write(self, choose: Choose) -> bool:
        """Return whether a specialist that decides may pass a prompt on to the plain model."""
        names = [choose] if isinstance(choose, str) else self.specialists
        return any(self.specialists[one].description.escalate == PLAIN_MODEL for one in names)

    def _questions(self, request: Request, encode_chat: EncodeChat) -> Decider:
        reading: Run | None = None
        deciders: dict[str, Decider] = {}
        for question in request.questions:
            path = f"questions.{question.name}"
            if question.specialist is None:
                scored = self._scored(f"{path}.choices", question, request, encode_chat)
                deciders[question.name] = scored
                continue
            choose = self._chosen(f"{path}.specialist", question.specialist)
            reading = reading or self.reading(spoken(request.messages))
            deciders[question.name] = SpecialistDecider(
                reading, self.specialists, choose, may_escalate=request.may_escalate
            )
        may_leave_out = request.on_deadline is OnDeadline.SHORTEN
        return QuestionsDecider(deciders, may_leave_out=may_leave_out)

    def _scored(
        self, path: str, question: Question, request: Request, encode_chat: EncodeChat
    ) -> ChoiceDecider:
        if self._scoring is None:
            raise ValueError("no option can be scored without a model")
        return self._scoring.decider(path, question, request.messages, encode_chat)

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
        if name in self.writers:
            raise UnknownSpecialistError(f"{path}: {name} writes its answers; ask it alone")
        if name not in self.specialists:
            known = ", ".join(sorted({*self.specialists, *self.writers}))
            what = f"{name} is not installed on this node; it has {known}"
            raise UnknownSpecialistError(f"{path}: {what if known else _NOTHING}")
        return name
