"""Dialogues in tokens, as the node will say them."""

from collections.abc import Callable, Sequence
from itertools import takewhile

from edged.builder.writer.material import SEED, Material
from edged.builder.writer.rows import Row, joined
from edged.engine.tokenizer import TemplateError, Tokenizer
from edged.engine.tokenizer.inputs_template import InputsTemplateError
from edged.engine.writer_prompts import WriterPrompts
from edged.errors import UsageError
from edged.protocol.request import ChatMessage
from edged.specialists.dialogues import Dialogue, Turn
from edged.specialists.follow_ups import FollowUps
from edged.specialists.multiply import Multiplier
from edged.specialists.wording import Wording
from edged.specialists.written import Asked, asked_of

MAX_TOKENS = 2048
MOST_VARIATIONS = 64
# Where nothing says how many, three epochs take some 20 minutes on two cores.
_EPOCH_TOKENS, _ENOUGH_VARIATIONS = 100_000, 10


class Prompts:
    """Makes tokens of dialogues.

    Args:
        tokenizer: Of the bundle.
        wording: How answers are written.
        template: What is said before every prompt.

    Raises:
        BundleError: The template is none.
    """

    def __init__(self, tokenizer: Tokenizer, wording: Wording, template: str) -> None:
        self._tokenizer, self._wording, self._template = tokenizer, wording, template
        self._prompts = WriterPrompts(tokenizer, MAX_TOKENS)
        self._end = tokenizer.stop_ids[0]

    def ids(self, asked: Asked) -> list[int]:
        """Return a prompt in tokens.

        Raises:
            UsageError: The template fails on its inputs, or the tokenizer on a text.
        """
        dialogue = asked.dialogue
        try:
            return self._prompts.encode(self._template, asked.messages, dialogue.inputs)
        except (InputsTemplateError, TemplateError) as error:
            raise UsageError(f"{dialogue.place}: {error}") from error

    def rows(self, dialogue: Dialogue) -> list[Row]:
        """Return a row with all answers, or one for each where they have no common beginning.

        Raises:
            UsageError: It has more tokens than are possible; it names the line.
        """
        ids: list[int] = []
        is_answer: list[bool] = []
        rows: list[Row] = []
        nothing = Asked((ChatMessage("user", ""),), "", dialogue)
        before = self.ids(nothing)
        for asked in self.asked(dialogue):
            prompt_ids = self.ids(asked)
            if prompt_ids[: len(ids)] != ids:
                rows.append(_row(ids, is_answer, before))
                ids, is_answer = [], []
            is_answer += [False] * (len(prompt_ids) - len(ids))
            answer = [*self._tokenizer.encode(asked.text), self._end]
            ids = [*prompt_ids, *answer]
            is_answer += [True] * len(answer)
        rows.append(_row(ids, is_answer, before))
        if (longest := max(len(row.ids) for row in rows)) > MAX_TOKENS:
            raise UsageError(
                f"{dialogue.place}: {longest} tokens, at most {MAX_TOKENS} are possible"
            )
        return rows

    def longest_answer(self, dialogues: Sequence[Dialogue]) -> int:
        """Return how many tokens the longest answer of these has, with its end."""
        asked = [one for dialogue in dialogues for one in self.asked(dialogue)]
        return 1 + max((len(self._tokenizer.encode(one.text)) for one in asked), default=0)

    def asked(self, dialogue: Dialogue) -> list[Asked]:
        """Return the prompt of each of its answers; those before it are the right ones."""
        return asked_of(dialogue, self._wording)


def _row(ids: Sequence[int], is_answer: Sequence[bool], before: Sequence[int]) -> Row:
    """Return a row; ``before`` is the prompt that says nothing."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(ids, before, strict=False))
    return Row(tuple(ids), tuple(is_answer), sum(1 for _ in alike))


def rows_of(
    prompts: Prompts, dialogues: Sequence[Dialogue], note: Callable[[float], None] | None = None
) -> list[Row]:
    """Return the rows of all dialogues.

    Raises:
        UsageError: One cannot be said; it names the line.
    """
    rows: list[Row] = []
    for index, one in enumerate(dialogues):
        rows += prompts.rows(one)
        if note is not None:
            note((index + 1) / len(dialogues))
    return rows


def rows_to_learn(
    prompts: Prompts,
    material: Material,
    variations: int | None,
    batch: int,
    asides: Sequence[Turn] = (),
) -> list[Row]:
    """Return the rows of the examples, and of what is made of them.

    Args:
        prompts: Makes their tokens.
        material: What was read.
        variations: How often each example is there, itself counted; None is as often as there is
            time for.
        batch: Dialogues of a row at most.
        asides: What may be said that is meant for nothing, each with its answer.

    Raises:
        UsageError: One cannot be said; it names the line.
    """
    rows = joined(rows_of(prompts, material.taught), batch, SEED)
    if variations is None:
        num_tokens = sum(len(row.ids) for row in rows)
        variations = min(max(1, _EPOCH_TOKENS // num_tokens), _ENOUGH_VARIATIONS)
    if variations == 1:
        return rows
    shape = material.wording.shape
    multiplier = Multiplier(material.taught, shape, SEED)
    follow_ups = FollowUps(material.taught, shape, SEED, asides)
    made = [
        multiplier.variation(follow_ups.after(one, number), number)
        for number in range(1, variations)
        for one in material.taught
    ]
    return joined(rows_of(prompts, [*material.taught, *made]), batch, SEED)
