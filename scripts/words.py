"""Refuse text that is true on one machine only, or that ties users to one mirror.

Prints ``file:line: reason`` for each finding in the tracked and new text files; silent and 0 when
there is none.
"""

import re
import subprocess
import sys
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
# Written by machines, or by somebody else.
EXEMPT = re.compile(r"^(?:LICENSE$|tests/data/|tests/builder/data/)")


def text_files() -> list[str]:
    """List the files that git has or would take, without links and binary files."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = sorted(set(listed.split("\0")) - {""})
    return [name for name in names if (ROOT / name).is_file() and not EXEMPT.match(name)]


def findings(name: str) -> list[str]:
    """Name the lines of one file that hold a forbidden text."""
    content = (ROOT / name).read_bytes()
    if b"\0" in content:
        return []
    lines = content.decode("utf-8", "replace").splitlines()
    return [
        f"{name}:{number}: {reason}"
        for number, line in enumerate(lines, 1)
        for pattern, reason in FORBIDDEN.items()
        if re.search(pattern, line)
    ]


def main() -> int:
    """Look at every file; 1 when something was found."""
    found = [finding for name in text_files() for finding in findings(name)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
