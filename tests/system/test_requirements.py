"""Where everything is required, no way of skipping gets through."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SKIPS = {
    "mark": "@pytest.mark.skip(reason='because')\ndef test_it(): pass",
    "condition": "@pytest.mark.skipif(True, reason='because')\ndef test_it(): pass",
    "call": "def test_it(): pytest.skip('because')",
    "import": "pytest.importorskip('no_such_package', reason='because')\ndef test_it(): pass",
    "fixture": "@pytest.fixture\ndef it(): pytest.skip('because')\ndef test_it(it): pass",
    "require": "from tests.requirements import require\ndef test_it(): require(False, 'because')",
}


def run_pytest(
    folder: Path, body: str, *, is_all_required: bool
) -> subprocess.CompletedProcess[str]:
    """Run one test module with the conftest of this suite."""
    (folder / "test_one.py").write_text(f"import pytest\n{body}\n", "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "EDGED_TEST_REQUIRE_ALL": "01"[is_all_required],
    }
    return subprocess.run(
        [*command, "--rootdir", str(folder), "-c", os.devnull, str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", SKIPS)
def test_a_skip_fails_where_everything_is_required(kind: str, tmp_path: Path) -> None:
    result = run_pytest(tmp_path, SKIPS[kind], is_all_required=True)
    assert result.returncode in {1, 2}, result.stdout
    assert "because" in result.stdout


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, SKIPS["call"], is_all_required=False)
    assert result.returncode == 0
    assert "1 skipped" in result.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    body = "@pytest.mark.xfail(reason='known')\ndef test_it(): assert False"
    result = run_pytest(tmp_path, body, is_all_required=True)
    assert result.returncode == 0, result.stdout
    assert "1 xfailed" in result.stdout
