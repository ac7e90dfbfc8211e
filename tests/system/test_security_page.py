"""docs/security.md: every claim names tests, and pytest finds them and would run them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.system.hostile.crossings import CROSSINGS

PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
CLAIMS = PAGE.partition("## The claims")[2]
ROWS = re.findall(r"(?m)^\| (.*) \| (`tests/.*`) \|$", CLAIMS)
BETWEEN_ACCOUNTS = PAGE.partition("## Between accounts")[2].partition("\n## ")[0]
ATTACKS = re.findall(r"(?m)^\| (.*) \| (`[^|]*`) \|$", BETWEEN_ACCOUNTS)
ASSETS = {crossing.asset for crossing in CROSSINGS}
REFERENCES = re.findall(r"`(tests/[^`]+::[^`]+)`", PAGE)


def collect(*references: str) -> subprocess.CompletedProcess[str]:
    """Let pytest collect tests; those that a mark skips or lets fail are left out."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    marks = ["-m", "not skip and not xfail"]
    return subprocess.run(
        [*command, *marks, *references], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """The tests of the files that the page names, without their parameters."""
    shown = collect(*sorted({reference.partition("::")[0] for reference in REFERENCES})).stdout
    return {line.partition("[")[0] for line in shown.splitlines() if "::" in line}


@pytest.mark.parametrize("row", ROWS, ids=[claim[:40] for claim, _ in ROWS])
def test_a_claim_names_tests_that_are_run(row: tuple[str, str], collected: set[str]) -> None:
    named = set(re.findall(r"`([^`]+)`", row[1]))
    assert named <= collected


@pytest.mark.parametrize("row", ATTACKS, ids=[attack[:40] for attack, _ in ATTACKS])
def test_an_attack_between_accounts_names_what_performs_it(
    row: tuple[str, str], collected: set[str]
) -> None:
    named = set(re.findall(r"`([^`]+)`", row[1])) - ASSETS
    assert named <= collected
    assert all(name.startswith("tests/system/") for name in named)


def test_each_attack_of_the_table_has_its_row() -> None:
    rows = [line for line in BETWEEN_ACCOUNTS.splitlines() if line.startswith("| ")]
    assert len(rows) - 2 == len(ATTACKS) > 10, "every row but those two that name the columns"
    assert set(re.findall(r"`([^`]+)`", " ".join(tests for _, tests in ATTACKS))) >= ASSETS


def test_a_test_that_is_switched_off_or_gone_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "test_claims.py"
    file.write_text(
        "import pytest\n"
        "def test_on(): pass\n"
        "@pytest.mark.skip\ndef test_off(): pass\n"
        "@pytest.mark.xfail\ndef test_known(): pass\n"
        "def helper():\n    def test_inside(): pass\n",
        "utf-8",
    )
    shown = collect(str(file)).stdout
    assert "::test_on" in shown
    assert not re.search("::test_(off|known|inside)", shown)


def test_no_claim_stands_without_a_test() -> None:
    rows = [
        line for line in CLAIMS.splitlines() if line.startswith("| ") and "| test |" not in line
    ]
    assert len(rows) == len(ROWS) > 20
