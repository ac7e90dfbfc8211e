"""A bundle as a teacher: its probabilities are those of its own logits, whatever was asked before.

The tiny model is real, and knows nothing.
"""

from pathlib import Path

import numpy as np
import pytest

from edged.bundle.folder import open_bundle
from edged.bundle.manifest import GraphKind
from edged.commands.bundle_teacher import BundleTeacher
from edged.engine.loading import load_graph
from edged.engine.tokenizer import Tokenizer
from edged.errors import UsageError
from edged.protocol.request import ChatMessage
from edged.specialists.examples import Example
from edged.specialists.teacher import CONTENT_FREE, calibrated, instruction
from tests.tiny_model import write_tiny_bundle

OPTIONS = ["on", "off", "in the hall", "in the bath"]
PROMPTS = ["lights", "lights in the other hall", "it is too warm here", "lights"]


@pytest.fixture(scope="module", params=[True, False], ids=["fused", "portable"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"), fused=bool(request.param))


def example(prompt: str) -> Example:
    return Example(prompt, None, 1, "line 1", is_open=True, file="prompts.jsonl")


def plain_scores(folder: Path, prompt: str) -> np.ndarray:
    """Return each option's log-likelihood, from a run of prompt and option in one piece."""
    bundle = open_bundle(folder)
    is_fused, tokenizer = bundle.manifest.graph is GraphKind.FUSED, Tokenizer.load(bundle)
    graph = load_graph(bundle.model_path, is_fused=is_fused, max_model_len=256)
    system = ChatMessage("system", instruction(OPTIONS))
    ids = tokenizer.encode_chat((system, ChatMessage("user", prompt)))
    scores = []
    for option in map(tokenizer.encode, OPTIONS):
        rows = graph.forward(np.array(ids + option), 0, all_rows=True)[len(ids) - 1 : -1]
        shares = np.exp(rows.astype(np.float64))
        shares /= shares.sum(axis=1, keepdims=True)
        scores.append(np.log(shares[np.arange(len(option)), option]).sum())
    return np.array(scores)


def test_its_probabilities_are_those_of_the_whole_texts(folder: Path) -> None:
    teacher = BundleTeacher(folder, OPTIONS)
    prior = np.stack([plain_scores(folder, prompt) for prompt in CONTENT_FREE])
    found = [teacher.ask(example(prompt)) for prompt in PROMPTS]
    for prompt, probabilities in zip(PROMPTS, found, strict=True):
        expected = calibrated(plain_scores(folder, prompt), prior)
        np.testing.assert_allclose(probabilities, expected, rtol=1e-3)
        assert probabilities.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found[0], found[3], rtol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-4


def test_what_does_not_fit_is_refused_with_its_place(folder: Path) -> None:
    teacher = BundleTeacher(folder, OPTIONS)
    with pytest.raises(UsageError, match=r"^prompts\.jsonl:1: \d+ tokens with the labels"):
        teacher.ask(example("x" * 300))
    with pytest.raises(UsageError, match=r"^200 labels: \d+ tokens with the labels"):
        BundleTeacher(folder, [f"label {index}" for index in range(200)])


def test_a_template_that_refuses_the_question_is_named(tmp_path: Path) -> None:
    template = "{{ raise_exception('no system message') }}"
    with pytest.raises(UsageError, match=r"2 labels: .*no system message"):
        BundleTeacher(write_tiny_bundle(tmp_path, chat_template=template), ["on", "off"])
