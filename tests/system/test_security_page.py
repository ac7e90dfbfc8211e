"""docs/security.md: every claim names a test, and every test that it names is there."""

import re

import pytest

from tests.paths import ROOT

ROWS = re.findall(
    r"(?m)^\| (.*) \| (`tests/.*`) \|$", (ROOT / "docs" / "security.md").read_text("utf-8")
)


@pytest.mark.parametrize("row", ROWS, ids=[claim[:40] for claim, _ in ROWS])
def test_a_claim_names_tests_that_exist(row: tuple[str, str]) -> None:
    for reference in row[1].split(", "):
        file, name = reference.strip("`").split("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text("utf-8"), reference


def test_no_claim_stands_without_a_test() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    claims = page.partition("## The claims")[2].partition("## What the network sees")[0]
    rows = [
        line for line in claims.splitlines() if line.startswith("| ") and "| test |" not in line
    ]
    assert len(rows) == len(ROWS) > 20
