"""Fail if the tests miss a line or a branch of the pure rooms (the import contract "pure").

    coverage_floor.py COVERAGE_JSON | --options

Silent if they miss none. --options: print pytest's options that count the lines of these rooms.
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def pure_rooms(pyproject: dict[str, Any]) -> list[str]:
    """Return the modules of the import contract "pure"."""
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    return next(contract["source_modules"] for contract in contracts if contract["id"] == "pure")


def missing(report: dict[str, Any], rooms: list[str]) -> list[str]:
    """Return each module of the rooms that is not covered, with its lines and branches."""
    found = []
    for path, entry in sorted(report["files"].items()):
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        is_pure = any(module == name or module.startswith(name + ".") for name in rooms)
        if is_pure and entry["summary"]["percent_covered"] < 100:  # noqa: PLR2004 - all of it
            branches = [f"{start}->{end}" for start, end in entry.get("missing_branches", [])]
            places = [str(line) for line in entry["missing_lines"]] + branches
            found.append(f"{path}: not reached: {', '.join(places)}")
    return found


def main() -> int:
    """Say what the report has as not covered; return 1 if there is any."""
    rooms = pure_rooms(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8")))
    if sys.argv[1] == "--options":
        print(*(f"--cov={room}" for room in rooms), sep="\n")
        return 0
    problems = missing(json.loads(Path(sys.argv[1]).read_bytes()), rooms)
    for problem in problems:
        print(f"coverage: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
