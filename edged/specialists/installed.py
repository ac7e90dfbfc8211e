"""The specialists of a node: what a request may name, and the runs that it takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from edged.protocol.request import AUTO, ChatMessage, OnDeadline, Question, Request, spoken
from edged.specialists.asked import (
    Choose,
    Second,
    SpecialistDecider,
    WriterDecider,
    Writing,
)
from edged.specialists.choice import said_last
from edged.specialists.compact.shapes import Inputs
from edged.specialists.decider import Decider, Run
from edged.specialists.features import Template
from edged.specialists.folder import Specialist
from edged.specialists.gate import Gate
from edged.specialists.names import PLAIN_MODEL
from edged.specialists.questions import QuestionsDecider
from edged.specialists.scoring import ChoiceDecider, EncodeChat, OptionScoring
from edged.specialists.writer import Writer, WriterAnswers, heard

PromptWriter: TypeAlias = Callable[
    [Writer, Sequence[ChatMessage], Inputs], tuple[Sequence[int], Any]
]
"""Returns the prompt of a specialist that writes, and the constraint of its answer."""

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
        writers_bytes = sum(one.size_bytes for one in self.writers.values())
        return gate_bytes + heads_bytes + writers_bytes

    def held_bytes(self, num_slots: int) -> int:
        """Return the memory that they take where answers of so many slots may have an adapter."""
        slot_bytes = max((one.adapter.slot_bytes for one in self.writers.values()), default=0)
        return self.size_bytes + num_slots * slot_bytes

    def writes(self, name: str | None) -> bool:
        """Tell whether to ask a specialist is to render a template, which is for one thread."""
        head = self.specialists.get(name or "")
        return name in self.writers or (
            head is not None and head.description.escalate in self.writers
        )

    def decider(
        self,
        request: Request,
        encode_chat: EncodeChat,
        prompt_writer: PromptWriter | None = None,
    ) -> Decider | None:
        """Return what decides a request; None where the plain model writes.

        Raises:
            UnknownSpecialistError: It names what is not installed.
            OptionError: An option cannot be scored.
            ValueError: The inputs are not what a specialist that writes needs.
        """
        if request.questions:
            return self._questions(request, encode_chat)
        if request.format.is_scored:
            choice = Question("", choices=request.format.choices)
            return self._scored("format.choices", choice, request, encode_chat)
        name = request.specialist
        if name is None:
            return None
        if name in self.writers:
            if prompt_writer is None:
                raise ValueError("no answer can be written without a model")
            writing = self._writing(self.writers[name], request, prompt_writer)
            target = self.writers[name].description.escalate
            second = self._second(target, request, encode_chat, prompt_writer)
            return WriterDecider(writing, second)
        choose = self._chosen("specialist", name)
        if request.inputs and not self.writes(name):
            raise UnknownSpecialistError(f"inputs: {name} writes no answers; leave them out")
        reading = self.reading(spoken(request.messages))
        second = None
        if self._target(choose) not in self.specialists:  # those read the same run
            second = self._second(self._target(choose), request, encode_chat, prompt_writer)
        return SpecialistDecider(
            reading, self.specialists, choose, second, may_escalate=request.may_escalate
        )

    def _target(self, choose: Choose) -> str | None:
        """Return whom a specialist that decides passes prompts on to, if not to one of its kind."""
        if isinstance(choose, str):
            return self.specialists[choose].description.escalate
        # Of those that the gate may choose, not all may need a run of their own.
        named = {one.description.escalate for one in self.specialists.values()}
        return PLAIN_MODEL if PLAIN_MODEL in named else None

    def _second(
        self,
        target: str | None,
        request: Request,
        encode_chat: EncodeChat,
        prompt_writer: PromptWriter | None,
    ) -> Second | None:
        """Return who answers in a run of its own what a specialist is unsure of."""
        if target is None or not request.may_escalate:
            return None
        if target == PLAIN_MODEL:
            return Second(target, Writing(Run(encode_chat(request.messages))))
        if target in self.specialists:
            reading = self.reading(spoken(request.messages))
            return Second(target, Writing(reading), self.specialists[target])
        if target not in self.writers or prompt_writer is None:
            return None
        try:
            return Second(target, self._writing(self.writers[target], request, prompt_writer))
        except ValueError:  # it needs other inputs than the one that was named
            return None

    def _writing(self, writer: Writer, request: Request, prompt_writer: PromptWriter) -> Writing:
        prompt_ids, constraint = prompt_writer(writer, request.messages, request.inputs)
        most = request.max_tokens if request.is_length_given else writer.description.max_tokens
        answers = WriterAnswers(writer, request.inputs, heard(request.messages))
        run = Run(prompt_ids, answers=answers, constraint=constraint, max_tokens=most)
        if writer.choice is None or constraint is None:
            return Writing(run)
        return Writing(run, writer.choice, self.reading(said_last(request.messages)))

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
        return self._scoring.decider(path, question, request, encode_chat)

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
        if name == AUTO and self.writers and not self.specialists:
            raise UnknownSpecialistError(
                f"{path}: {AUTO} chooses among specialists that decide, and all of this node write;"
                f" name one of {', '.join(sorted(self.writers))}"
            )
        if name in self.writers:
            raise UnknownSpecialistError(f"{path}: {name} writes its answers; ask it alone")
        if name not in self.specialists:
            known = ", ".join(sorted({*self.specialists, *self.writers}))
            what = f"{name} is not installed on this node; it has {known}"
            raise UnknownSpecialistError(f"{path}: {what if known else _NOTHING}")
        return name
