"""Results as a table, and as JUnit XML."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree as ET

from edged_conformance.errors import UsageError
from edged_conformance.suite import Result

_NAME_WIDTH = 66


def print_table(results: Sequence[Result], heading: str) -> None:
    """Print one line for each case, and the problems of each that failed."""
    print(heading)
    for theme, group in groupby(results, key=lambda result: result.case.theme):
        print(f"\n{theme}")
        other_version = 0
        for result in group:
            if result.is_other_version:
                other_version += 1
                continue
            end = f"{result.duration_s * 1000:5.0f} ms"
            if result.not_applicable is not None:
                end = f"  {result.not_applicable}"
            print(f"  {result.verdict:<6}  {result.case.name:<{_NAME_WIDTH}} {end}")
            for problem in result.problems:
                print(f"          {problem}")
        if other_version:
            print(f"  n/a     {other_version} cases are for another version of MQTT")
    print()


def summary(results: Sequence[Result]) -> str:
    """Return the numbers of passed, failed and not applicable cases, and the duration."""
    counts = Counter(result.verdict for result in results)
    duration_s = sum(result.duration_s for result in results)
    return (
        f"{counts['passed']} passed, {counts['FAILED']} failed,"
        f" {counts['n/a']} not applicable in {duration_s:.1f} s"
    )


def write_junit(results: Sequence[Result], path: Path) -> None:
    """Write the results as JUnit XML: a suite for each version of MQTT.

    Raises:
        UsageError: The file cannot be written.
    """
    root = ET.Element("testsuites", name="edged conformance")
    for version, group in groupby(results, key=lambda result: result.version):
        members = list(group)
        counts = Counter(result.verdict for result in members)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=f"MQTT {version}",
            tests=str(len(members)),
            failures=str(counts["FAILED"]),
            skipped=str(counts["n/a"]),
            time=f"{sum(result.duration_s for result in members):.3f}",
        )
        for result in members:
            _add_case(suite, result)
    try:
        ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise UsageError(f"--junit: cannot be written: {error}") from error


def _add_case(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=result.case.theme,
        name=f"{result.case.name} (MQTT {result.version})",
        time=f"{result.duration_s:.3f}",
    )
    if result.problems:
        failure = ET.SubElement(case, "failure", message=_printable(result.problems[0]))
        failure.text = _printable("\n".join(result.problems))
    elif result.not_applicable is not None:
        ET.SubElement(case, "skipped", message=_printable(result.not_applicable))


def _printable(text: str) -> str:
    """Replace characters that are invalid in XML."""
    return "".join(char if char == "\n" or char.isprintable() else "?" for char in text)
