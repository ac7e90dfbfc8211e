"""A model must answer as it did where it was built."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edged.bundle.folder import Bundle, open_bundle
from edged.bundle.manifest import GOLDEN
from edged.engine import golden
from edged.errors import BundleError
from tests.tiny_model import write_tiny_bundle

Change = Callable[[Any], None]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle"))
    golden.record(bundle)
    return bundle


def change(bundle: Bundle, edit: Change) -> None:
    path = bundle.folder / GOLDEN
    tree = json.loads(path.read_text("utf-8"))
    edit(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")


def others(number: int) -> Change:
    """Change the last token of so many answers: no other one depends on it."""

    def edit(tree: Any) -> None:  # noqa: ANN401 - JSON
        for answer in tree["answers"][:number]:
            answer["token_ids"][-1] = (answer["token_ids"][-1] + 1) % 4

    return edit


def elsewhere(tree: Any) -> None:  # noqa: ANN401 - JSON
    tree["device"] = "another"


def test_what_was_recorded_is_answered_again(bundle: Bundle) -> None:
    assert golden.check(bundle) == "72 of 72 golden tokens are the same"
    # It may lie beside the files of the manifest.
    open_bundle(bundle.folder)


def test_on_the_same_processor_one_other_token_is_too_many(bundle: Bundle) -> None:
    change(bundle, others(1))
    with pytest.raises(BundleError, match="only 71 of 72 golden tokens are the same"):
        golden.check(bundle)


@pytest.mark.parametrize("number", [1, 3])
def test_on_another_processor_a_few_may_differ(bundle: Bundle, number: int) -> None:
    change(bundle, elsewhere)
    change(bundle, others(number))
    assert golden.check(bundle) == f"{72 - number} of 72 golden tokens are the same"


def test_on_another_processor_many_may_not(bundle: Bundle) -> None:
    change(bundle, elsewhere)
    change(bundle, lambda tree: tree["answers"][0]["token_ids"].reverse())
    with pytest.raises(BundleError, match="of 72 golden tokens are the same as where it was built"):
        golden.check(bundle)


@pytest.mark.parametrize(
    "edit",
    [
        lambda tree: tree.pop("device"),
        lambda tree: tree["answers"][0]["token_ids"].insert(0, 10**9),
        lambda tree: tree["answers"][0].update(token_ids=[1] * 4000),
        lambda tree: tree["answers"][0].update(prompt=1),
    ],
)
def test_a_damaged_file_is_named(bundle: Bundle, edit: Change) -> None:
    change(bundle, edit)
    with pytest.raises(BundleError, match=r"golden\.json: .*; rebuild the bundle"):
        golden.check(bundle)


def test_a_bundle_of_an_earlier_version_has_none(bundle: Bundle) -> None:
    (bundle.folder / GOLDEN).unlink()
    assert golden.check(bundle) == "it has no golden.json, so its answers were not compared"


def test_the_class_of_a_processor_is_that_of_its_kernels(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu avx avx2 avx512_vnni sse\nmodel name\t: X\n")
    assert golden.device_class(cpuinfo).split()[1:-1] == ["avx2", "avx512_vnni"]
    cpuinfo.write_text("Features\t: fp asimd asimddp i8mm\n")
    assert golden.device_class(cpuinfo).split()[1:-1] == ["asimddp", "i8mm"]
