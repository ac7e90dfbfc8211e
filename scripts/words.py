"""Refuse text that holds on one machine only, and names of files and tests that do not exist.

Prints ``file:line: reason`` for each finding in the tracked and new text files; silent and 0 if
there is none.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Each pattern is written so that it does not match itself.
FORBIDDEN = {
    r"\bpy[p]i\.org|\bpython[h]osted\.org|\bregistry\.[n]pmjs\.org|\bdownload\.[p]ytorch\.org": (
        "names a package registry's host: users have their own mirrors"
    ),
    r"\b(?:deb|security|ftp|archive|snapshot)\.[d]ebian\.org": (
        "names a Debian mirror: the machine's own apt sources say which"
    ),
    r"(?<![\w.$}/-])/(?:[w]ork|[r]oot|[h]ome/(?!me/|user/|pi/)\w+)/": "a path of one machine",
    r"^(?:<{7}|>{7}) ": "a merge conflict",
    r"[ \t]+$": "space at the end of the line",
}
# The set-up's line with the index that it asks for PyTorch's CPU builds.
ALLOWED = re.compile(r"scripts/[s]etup:torch_index=")
# Generated, or from other projects.
EXEMPT = re.compile(r"^(?:LICENSE$|tests/data/|tests/builder/data/)")

# A path in this repository, and the test in it; without patterns and parts of longer paths.
REFERENCE = re.compile(
    r"(?<![\w./$*<>{}-])((?:benchmarks|deploy|docs|scripts|systemd|tests)/[\w./-]*\w|edged/[\w/]+\.py)"
    r"(?![\w*{/<]|-[*$]|\.\w)(?:::(\w+))?"
)
TEST = re.compile(r"`(test_\w+)`")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")
MODULE = re.compile(r"python -m ((?:benchmarks|edged|tests)\.[\w.]+\w)")


def text_files() -> list[str]:
    """List the files that git tracks or would add."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    command.append("--exclude-standard")
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = sorted(set(listed.split("\0")) - {""})
    return [name for name in names if (ROOT / name).is_file() and not EXEMPT.match(name)]


def forbidden(name: str, line: str) -> Iterator[str]:
    """Yield what a line must not have."""
    if not ALLOWED.match(f"{name}:{line}"):
        yield from (reason for pattern, reason in FORBIDDEN.items() if re.search(pattern, line))


def problems(name: str, line: str) -> Iterator[str]:
    """Yield what is wrong with one line of a file."""
    yield from forbidden(name, line)
    if name.startswith("tests/"):  # which also name files that do not exist
        return
    for path, test in REFERENCE.findall(line):
        if not (ROOT / path).exists():
            yield f"{path}: no such file"
        elif test and f"def {test}(" not in (ROOT / path).read_text("utf-8"):
            yield f"{path}: has no {test}"
    for module in MODULE.findall(line):
        path = ROOT / module.replace(".", "/")
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
            yield f"{module}: no such module"
    if name.endswith(".md"):
        yield from (f"{x}: no such test" for x in TEST.findall(line) if x not in test_names())
        folder = (ROOT / name).parent
        yield from (f"{x}: no such file" for x in LINK.findall(line) if not (folder / x).exists())


@cache
def test_names() -> set[str]:
    """Return the names of all test functions and test modules."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    texts = [file.read_text("utf-8") for file in files]
    return {file.stem for file in files} | set(re.findall(r"def (test_\w+)\(", "\n".join(texts)))


def findings(name: str) -> list[str]:
    """Return the problems of one file, each with its line."""
    content = (ROOT / name).read_bytes()
    if b"\0" in content:
        return []
    lines = content.decode("utf-8", "replace").splitlines()
    return [
        f"{name}:{number}: {problem}"
        for number, line in enumerate(lines, 1)
        for problem in problems(name, line)
    ]


def main() -> int:
    """Check every file; return 1 if there is a finding."""
    found = [finding for name in text_files() for finding in findings(name)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
