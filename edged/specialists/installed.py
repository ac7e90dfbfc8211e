"""The specialists of a node: what a request may name, and the runs that it takes."""

from collections.abc import Mapping, Sequence

from edged.protocol.request import ChatMessage, OnDeadline, Question, Request
from edged.specialists.asked import PLAIN_MODEL, SpecialistDecider
from edged.specialists.decider import Decider, Run
from edged.specialists.features import Template
from edged.specialists.folder import Specialist
from edged.specialists.questions import QuestionsDecider
from edged.specialists.scoring import ChoiceDecider, EncodeChat, OptionScoring


class UnknownSpecialistError(ValueError):
    """A request names a specialist that is not installed."""


class Installed:
    """The installed specialists; what changes them makes another one of these.

    Args:
        template: What they all read.
        width: Features of a token's hidden states.
        specialists: By name.
        scoring: What decides for an option without a specialist.
    """

    def __init__(
        self,
        template: Template | None = None,
        width: int = 0,
        specialists: Mapping[str, Specialist] | None = None,
        scoring: OptionScoring | None = None,
    ) -> None:
        self._template = template
        self._width = width
        self._scoring = scoring
        self.specialists = specialists or {}

    @property
    def size_bytes(self) -> int:
        """Memory that their arrays take."""
        return sum(specialist.size_bytes for specialist in self.specialists.values())

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
        if name is None:
            return None
        specialist = self._find("specialist", name)
        reading = self.reading(spoken(request.messages))
        plain = None
        if request.may_escalate and specialist.description.escalate == PLAIN_MODEL:
            plain = Run(encode_chat(request.messages))
        return SpecialistDecider(reading, self.specialists, name, plain)

    def _questions(self, request: Request, encode_chat: EncodeChat) -> Decider:
        reading: Run | None = None
        deciders: dict[str, Decider] = {}
        for question in request.questions:
            path = f"questions.{question.name}"
            if question.specialist is None:
                scored = self._scored(f"{path}.choices", question, request, encode_chat)
                deciders[question.name] = scored
                continue
            self._find(f"{path}.specialist", question.specialist)
            reading = reading or self.reading(spoken(request.messages))
            asked = SpecialistDecider(reading, self.specialists, question.specialist)
            deciders[question.name] = asked
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

    def _find(self, path: str, name: str) -> Specialist:
        specialist = self.specialists.get(name)
        if specialist is None:
            known = ", ".join(sorted(self.specialists)) or "none"
            raise UnknownSpecialistError(
                f"{path}: {name} is not installed on this node; it has {known}"
            )
        return specialist


def spoken(messages: Sequence[ChatMessage]) -> str:
    """Return what a head reads of a dialogue: what was said, a line for each message."""
    # A system text is the same in all prompts of a client, and none of the examples has it.
    return "\n".join(message.content for message in messages if message.role != "system")
