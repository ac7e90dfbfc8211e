"""The project's own checks notice what they are for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts."""
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("covered", "complaint"),
    [(100.0, ""), (99.9, "coverage: edged/protocol/request.py: not reached: 7\n")],
)
def test_all_of_the_pure_rooms_is_to_be_covered_and_of_no_other(
    covered: float, complaint: str, tmp_path: Path
) -> None:
    files = {
        "edged/protocol/request.py": {
            "summary": {"percent_covered": covered},
            "missing_lines": [7],
        },
        "edged/daemon/run.py": {"summary": {"percent_covered": 50.0}, "missing_lines": [1]},
    }
    report = tmp_path / "coverage.json"
    report.write_text(json.dumps({"files": files}), "utf-8")
    result = run(sys.executable, ROOT / "scripts" / "coverage_floor.py", report)
    assert (result.returncode, result.stderr) == (1 if complaint else 0, complaint)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("get it from https://py" + "pi.org/simple", "registry"),
        ("see /ro" + "ot/notes.txt", "one machine"),
        ("<" * 7 + " mine", "merge conflict"),
        ("space ", "space at the end"),
        ("a plain line about /root and registries", None),
        ("see scripts/gone", "scripts/gone: no such file"),
        ("see edged/node/gone.py", "edged/node/gone.py: no such file"),
        ("`tests/test_a.py::test_gone`", "tests/test_a.py: has no test_gone"),
        ("`test_gone` holds", "test_gone: no such test"),
        ("python -m benchmarks.gone --json", "benchmarks.gone: no such module"),
        ("see [the page](gone.md#part)", "gone.md: no such file"),
        (
            "`tests/test_a.py::test_on`, `test_on`, [words](scripts/words.py#x), edged/node/state",
            None,
        ),
        ("a pattern: scripts/gone-*.lock, scripts/gone-$name.lock", None),
    ],
)
def test_the_word_check_finds_machine_specific_text_and_missing_files(
    text: str, reason: str | None, tmp_path: Path
) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "words.py").write_bytes((ROOT / "scripts" / "words.py").read_bytes())
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_on() -> None: ...\n", "utf-8")
    (tmp_path / "page.md").write_text(f"first\n{text}\n", "utf-8")
    run("git", "init", "--quiet", cwd=tmp_path)
    result = run(sys.executable, scripts / "words.py", cwd=tmp_path)
    assert result.returncode == (0 if reason is None else 1)
    if reason is not None:
        assert result.stdout.startswith("page.md:2: ")
        assert reason in result.stdout


LONG = "def work() -> None:\n" + "    pass\n" * 41


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"node/a.py": "x = 1\n" * 401}, "edged/node/a.py:401: 401 lines, at most 400"),
        ({"node/a.py": LONG}, "edged/node/a.py:1: work: 42 lines, at most 40"),
        ({"node/utils.py": ""}, "edged/node/utils.py:1: utils: say what"),
        ({"node/a.py": "class QueueManager: ..."}, "edged/node/a.py:1: QueueManager: say what"),
        ({f"room{n}/a.py": "" for n in range(13)}, "edged:1: 14 entries, at most 13: node, room0"),
        ({f"node/a{n}.py": "" for n in range(10)}, "edged/node/a0.py:1: 0 lines; 11 modules"),
        (
            {"node/a.py": "class Step: ...", "node/b.py": "\nclass Step: ..."},
            "edged/node/b.py:2: Step: edged/node/a.py has a class of that name",
        ),
        ({"node/a.py": "class Sequence: ..."}, "edged/node/a.py:1: Sequence: typing or"),
    ],
)
def test_the_house_rules_name_the_place(
    files: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    script = tmp_path / "scripts" / "house.py"
    script.parent.mkdir()
    script.write_bytes((ROOT / "scripts" / "house.py").read_bytes())
    for name, content in {"node/fine.py": "class Fine: ...", **files}.items():
        path = tmp_path / "edged" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    result = run(sys.executable, script)
    assert result.returncode == 1
    assert complaint in result.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the set-up script and an environment whose uv only says what it was told."""
    for name in ("pyproject.toml", "tests/conformance/pyproject.toml", "scripts/setup"):
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
        copy.chmod(0o755)
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv")
    (packages,) = (tmp_path / ".venv" / "lib").glob("python3*/site-packages")
    (packages / "pip").mkdir()
    (packages / "pip" / "__init__.py").touch()
    # pip has no settings, and installs nothing.
    (packages / "pip" / "__main__.py").write_text(
        "import sys; sys.exit('install' in sys.argv)", "utf-8"
    )
    tools = tmp_path / ".venv" / "bin"
    (tools / "pip").symlink_to("python")
    script = '#!/bin/sh\nfor last; do :; done; echo "told $last"; [ "$last" != ".[torch]" ]\n'
    (tools / "uv").write_text(script, "utf-8")
    (tools / "uv").chmod(0o755)
    return tmp_path


def test_a_complete_setup_does_nothing(checkout: Path) -> None:
    setup = checkout / "scripts" / "setup"
    assert "told .[broker,dev]\n" in run(setup, "dev", "broker").stdout
    assert run(setup, "dev", "broker").stdout == ""
    # What is there includes the smaller set, and not the other one.
    assert run(setup, "broker").stdout == ""
    assert "told .[build]\n" in run(setup, "build").stdout


def test_changed_dependencies_are_installed(checkout: Path) -> None:
    setup, pyproject = checkout / "scripts" / "setup", checkout / "pyproject.toml"
    run(setup)
    pyproject.write_text(pyproject.read_text("utf-8") + "\n# a comment\n", "utf-8")
    assert run(setup).stdout == ""
    text = pyproject.read_text("utf-8").replace('"jinja2>=3.1.4"', '"jinja2>=3.1.5"')
    pyproject.write_text(text, "utf-8")
    assert "told .\n" in run(setup).stdout


def test_an_interrupted_setup_continues(checkout: Path) -> None:
    setup = checkout / "scripts" / "setup"
    assert run(setup, "torch").returncode != 0
    assert "told .[torch]\n" in run(setup, "torch").stdout


def test_programs_of_make_keep_what_they_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some containers tell them not to; then each would compile all that it imports."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    shown = run("make", "--eval", "environment: ; @env", "environment")
    assert shown.returncode == 0, shown.stderr
    assert "PYTHONDONTWRITEBYTECODE" not in shown.stdout


def test_the_prompt_reaches_the_demo_unchanged(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name, body in (("scripts/setup", "exit 0"), (".venv/bin/edged", 'printf "<%s>" "$@"')):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
        path.chmod(0o755)
    prompt = """It's "5 $ HOME" `date` -- why?"""
    environment = {**os.environ, "PROMPT": "of a shell, not of ours"}
    command = ["make", "-s", "demo", f"PROMPT={prompt}", "BUNDLE=my model"]
    made = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert made.stdout == f"<demo><--prompt={prompt}><--bundle=my model>"
    bare = subprocess.run(
        command[:3], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert bare.stdout == "<demo>"
