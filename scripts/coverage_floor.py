"""Fail if the coverage is too low: 100 % of lines and branches in the core, 95 % overall.

    coverage_floor.py COVERAGE_JSON

Silent if it is sufficient. The core is the rooms in the import contract "pure".
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CORE_FLOOR = 100.0
OVERALL_FLOOR = 95.0


def core_modules(pyproject: dict[str, Any]) -> list[str]:
    """Return the modules of the import contract "pure"."""
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    return next(contract["source_modules"] for contract in contracts if contract["id"] == "pure")


def missing(report: dict[str, Any], modules: list[str]) -> list[str]:
    """Return each core module below its floor, with the lines and branches not covered."""
    found = []
    for path, entry in sorted(report["files"].items()):
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        is_core = any(module == name or module.startswith(name + ".") for name in modules)
        if is_core and entry["summary"]["percent_covered"] < CORE_FLOOR:
            branches = [f"{start}->{end}" for start, end in entry.get("missing_branches", [])]
            places = [str(line) for line in entry["missing_lines"]] + branches
            found.append(f"{path}: not reached: {', '.join(places)}")
    return found


def main() -> int:
    """Compare the report with the floors; return 1 if one is missed."""
    report = json.loads(Path(sys.argv[1]).read_bytes())
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    problems = missing(report, core_modules(pyproject))
    overall = report["totals"]["percent_covered"]
    if overall < OVERALL_FLOOR:
        problems.append(f"overall {overall:.2f} %, wanted {OVERALL_FLOOR:.0f} %")
    for problem in problems:
        print(f"coverage: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
