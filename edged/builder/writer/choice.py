"""The head that has a say in what a writer's answers begin with: taught, weighed, and kept or not.

It is taught with the examples that the adapter learns from. How much it counts is what makes the
right answers to the examples kept apart likeliest; it is kept where they are clearly likelier. Of
few such answers that would be chance: then it is kept, and counts as much as it did best elsewhere.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from edged.builder.progress import Activity, Progress
from edged.builder.writer.material import Material
from edged.builder.writer.prompts import Prompts
from edged.builder.writer.results import FEWEST_MEASURED
from edged.engine.choosing import ChoosingConstraint
from edged.engine.grammar import ConstraintError
from edged.engine.loop import Engine
from edged.engine.sampling import log_probability
from edged.engine.steps import PromptOrigin
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_prompts import WriterPrompts
from edged.engine.writer_runner import LastReader
from edged.protocol.request import SamplingParams
from edged.specialists.choice import END, ChoiceHead, Powers, Preferences, choices_of, said_last
from edged.specialists.compact.shapes import Shape
from edged.specialists.dialogues import Dialogue
from edged.specialists.examples import AnswerKind, Example
from edged.specialists.folder import BaseModel, Specialist
from edged.specialists.head import Doubles
from edged.specialists.lesson import Lesson, taught
from edged.specialists.writer import Writer
from edged.specialists.written import Asked

# The first is no head at all, and of those that are as good the first one is taken.
_POWERS = tuple(Powers(whole, word) for whole in (0.0, 1.0, 2.0, 3.0) for word in (0.0, 0.5, 1.0))
# Reading each takes some 30 ms.
_MOST_EXAMPLES = 1000
_FEWEST = 2
# Of so many examples the adapter has learned what to choose, and a head costs a run of the model.
_MOST_TAUGHT = 4000
# Of the mean loss of a right answer: what is less is no reason to have a head, or a stronger one.
_LEAST_GAIN = 0.02
# Where fewer answers than ``FEWEST_MEASURED`` are kept apart (``benchmarks.writers --dialogues``).
_USUAL = Powers(2.0, 1.0)
# Of what is meant for nothing, the share that a head must give to one answer, and how many times as
# much as to the next one.
_CLEAR, _TIMES = 0.25, 2.0
_NAME = "choice"


class ChoiceTeacher:
    """Makes heads for choices.

    Args:
        engine: Of the bundle, in the form that takes adapters, with a slot for a prefix.
        tokenizer: Of the bundle.
        prompts: Makes tokens of what is asked.
        material: What the writer is taught with, and what is kept apart.
        base: Of the heads.
        reader: Of the same engine; None makes one.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompts: Prompts,
        material: Material,
        base: BaseModel,
        reader: LastReader | None = None,
    ) -> None:
        self._engine, self._tokenizer, self._prompts = engine, tokenizer, prompts
        self._material, self._base = material, base
        self.reader = reader or LastReader(engine, tokenizer)
        self._head: Specialist | None = None

    def with_choice(self, writer: Writer, progress: Progress) -> Writer:
        """Return a writer with the head that makes it better, if one does, and say so.

        Args:
            writer: Without one.
            progress: Of the whole work.
        """
        specialist = self._taught(progress)
        if specialist is None:
            return writer
        num_apart = len(self._asked(self._material.held_out))
        if num_apart < FEWEST_MEASURED:
            print(f"{num_apart} answers are kept apart, too few to tell how much a head counts")
            return replace(writer, choice=ChoiceHead.of(specialist, _USUAL))
        losses = self._losses(writer, specialist)
        if not losses:
            return writer
        means = np.mean(losses, axis=0)
        chosen = int(np.flatnonzero(means <= means.min() + _LEAST_GAIN)[0])
        powers = _POWERS[chosen]
        said = f"kept, with the powers {powers.whole:g} and {powers.word:g}"
        print(
            f"loss of a right answer kept apart: {means[0]:.3f}, with a head for the choice"
            f" {means.min():.3f}: it is {said if chosen else 'left out'}"
        )
        return replace(writer, choice=ChoiceHead.of(specialist, powers)) if chosen else writer

    def answer_to(self, texts: Sequence[str], progress: Progress) -> str | None:
        """Return what the examples answer where nothing is meant that they teach, as it is written.

        Args:
            texts: Of which most mean nothing of it.
            progress: Of the whole work.

        Returns:
            The whole answer that a head finds likeliest for these; None if that is not clear.
        """
        specialist = self._taught(progress)
        if specialist is None or not texts:
            return None
        head = ChoiceHead.of(specialist, _USUAL)
        shares = [head.preferences(self.reader.read(text)).shares for text in texts]
        found = {choice: float(np.mean([one[choice] for one in shares])) for choice in shares[0]}
        (choice, share), (_, next_share) = sorted(found.items(), key=itemgetter(1))[:-3:-1]
        if choice is None or not choice.endswith(END) or share < max(_CLEAR, _TIMES * next_share):
            return None
        return choice.removesuffix(END)

    def _taught(self, progress: Progress) -> Specialist | None:
        """Return a head that was taught with the examples; None if they do not suffice."""
        material = self._material
        shape = material.wording.shape  # of the compact form; the others begin with no choice
        if shape is None or not (material.held_out and self.reader.is_possible):
            return None
        if len(material.taught) > _MOST_TAUGHT:
            return None
        if self._head is None:
            examples = self._examples(material.taught, shape)
            if len({one.answer for one in examples}) < _FEWEST:
                return None
            with progress.step("Teach the choice") as step:
                self._head = taught(self._lesson(examples, step), lambda _: None)
        return self._head

    def _asked(self, dialogues: Sequence[Dialogue]) -> list[Asked]:
        return [one for dialogue in dialogues for one in self._prompts.asked(dialogue)]

    def _examples(self, dialogues: Sequence[Dialogue], shape: Shape) -> list[Example]:
        """Return what was said last before each answer, with what the answer chose."""
        asked = self._asked(dialogues)
        asked = asked[:: math.ceil(len(asked) / _MOST_EXAMPLES)]
        groups = [one.dialogue.group for one in asked]
        choices = choices_of([one.text for one in asked], groups, shape)
        rare = {group for group, choice in zip(groups, choices, strict=True) if choice is None}
        return [
            Example(said_last(one.messages), choice, one.dialogue.line, group)
            for one, choice, group in zip(asked, choices, groups, strict=True)
            if choice is not None or len(rare) >= _FEWEST
        ]

    def _lesson(self, examples: Sequence[Example], step: Activity) -> Lesson:
        rows = []
        for one in examples:
            rows.append(self.reader.read(one.prompt))
            step.update(len(rows), len(examples))
        # Nothing asks it how sure it is, and texts of whole answers say little of what is meant.
        features = np.stack(rows)
        layout = self.reader.layout
        return Lesson(
            _NAME, self._base, layout, AnswerKind.LABEL, 1.0, 0.0, examples, features, names=None
        )

    def _losses(self, writer: Writer, specialist: Specialist) -> list[Doubles]:
        """Return what each right answer costs at each powers; without those it cannot give."""
        heads = [ChoiceHead.of(specialist, powers) for powers in _POWERS]
        asking = replace(writer, choice=heads[0])
        prompts = WriterPrompts(self._tokenizer, self._engine.max_model_len)
        found = []
        for one in self._asked(self._material.held_out):
            prompted = prompts.prepare(asking, one.messages, one.dialogue.inputs)
            if not isinstance(prompted.constraint, ChoosingConstraint):
                continue
            features = self.reader.read(said_last(one.messages))
            wanted = [*self._tokenizer.encode(one.text), self._tokenizer.stop_ids[0]]
            graded = _Graded(prompted.constraint, wanted, [h.preferences(features) for h in heads])
            decoding = self._engine.start(
                prompted.prompt_ids,
                SamplingParams(),
                max_tokens=len(wanted),
                constraint=graded,
                origin=PromptOrigin(adapter=writer.adapter),
            )
            while not decoding.is_over:
                self._engine.step()
            self._engine.end(decoding)
            found += [graded.losses] if graded.is_possible else []
        return found


class _Graded:
    """A constraint that leads along the right answer, and weighs its tokens in several ways."""

    is_ending = False
    forced: Sequence[int] = ()

    def __init__(
        self,
        constraint: ChoosingConstraint,
        wanted: Sequence[int],
        preferences: Sequence[Preferences],
    ) -> None:
        self._constraint, self._wanted, self._preferences = constraint, deque(wanted), preferences
        self.losses = np.zeros(len(preferences))
        self.is_possible = True

    @property
    def is_complete(self) -> bool:
        return self._constraint.is_complete or not self._wanted

    def allowed(self, logits: NDArray[np.float32]) -> None:
        wanted = self._wanted[0]
        for index, preferences in enumerate(self._preferences):
            weighed = logits.copy()
            self._constraint.prefer(preferences)
            self._constraint.allowed(weighed)
            if weighed[wanted] == -np.inf:  # the grammar has it otherwise, or not at all
                self.is_possible = False
                raise ConstraintError("the right answer is not allowed")
            self.losses[index] -= log_probability(weighed, wanted)
        logits[np.arange(len(logits)) != wanted] = -np.inf

    def advance(self, token_id: int) -> None:
        self._constraint.advance(token_id)
        self._wanted.popleft()
