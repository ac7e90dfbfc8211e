"""The text file for Prometheus: its parser reads it, its rules name it, a dashboard draws it."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from edged.daemon.prometheus import (
    FIGURES,
    INFO,
    PREFIX,
    exposition,
)
from edged.errors import ErrorCode
from edged.node.metrics import Metrics
from edged.node.throttling import DeviceReading
from edged.protocol.wire import DropReason
from tests.paths import ROOT

STATE: dict[str, Any] = {
    **Metrics().snapshot(),
    **asdict(DeviceReading(temperature_c=61.5, under_voltage=True)),
    "queue": 2,
    "budget_enforced": True,
    "ttft_p95_s": 1.25,
    "refused_by_code": {"timeout": 3},
    "dropped_by_reason": {"retained": 2},
    "pressure": "refuse",
    "ledger": {"weights": 100, "kv": 50},
}
DASHBOARD = ROOT / "deploy" / "grafana" / "edged.json"
NAMES = {PREFIX + figure.name for figure in (*FIGURES, INFO)}


def samples(state: dict[str, Any], model: str = "tiny@1") -> dict[str, float]:
    """Parse the text as Prometheus' own client does; families by sample name and labels."""
    parser = pytest.importorskip("prometheus_client.parser")
    found = {}
    for family in parser.text_string_to_metric_families(exposition(state, "kitchen", model)):
        assert family.documentation
        is_total = any(sample.name.endswith("_total") for sample in family.samples)
        assert family.type == ("counter" if is_total else "gauge")
        for sample in family.samples:
            labels = "".join(f"{{{value}}}" for value in sample.labels.values())
            found[sample.name + labels] = sample.value
    return found


def test_the_figures_of_state_are_there_in_base_units() -> None:
    found = samples(STATE)
    assert found["edged_queue_requests"] == 2
    assert found["edged_budget_enforced"] == 1
    assert found["edged_ttft_p95_seconds"] == 1.25
    assert found["edged_temperature_celsius"] == 61.5
    assert found["edged_under_voltage"] == 1
    assert found["edged_served_total"] == 0
    assert found["edged_ledger_bytes{weights}"] == 100
    assert found["edged_pressure_rung"] == 4
    assert found["edged_info{kitchen}{tiny@1}"] == 1


def test_no_figure_of_state_is_missing() -> None:
    members = json.loads((ROOT / "docs" / "schemas" / "state.json").read_text())["properties"]
    kinds = {name: str(schema.get("type")) for name, schema in members.items()}
    figures = {name for name, kind in kinds.items() if re.search("integer|number|boolean", kind)}
    in_parts = {"refused", "dropped"}
    assert figures - {figure.key for figure in FIGURES} == in_parts


def test_each_part_that_is_counted_is_there_from_the_start_so_that_rates_work() -> None:
    found = samples(STATE)
    assert found["edged_refused_total{timeout}"] == 3
    assert found["edged_dropped_total{retained}"] == 2
    codes = {sample for sample in found if sample.startswith("edged_refused_total")}
    # While it loads, no file is written.
    assert codes == {f"edged_refused_total{{{code}}}" for code in set(ErrorCode) - {"loading"}}
    assert {f"edged_dropped_total{{{reason}}}" for reason in DropReason} <= set(found)


def test_what_is_unknown_is_left_out() -> None:
    found = samples({})
    assert "edged_ttft_p50_seconds" not in found
    assert "edged_pressure_rung" not in found


def test_a_label_may_hold_anything() -> None:
    assert samples({}, model='a"b\\c\nd')['edged_info{kitchen}{a"b\\c\nd}'] == 1


def test_names_follow_the_conventions() -> None:
    for figure in FIGURES:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", figure.name)
        assert not figure.name.endswith(("_s", "_ms", "_mib", "_percent"))
        assert figure.help.endswith(".")
    assert len(NAMES) == len(FIGURES) + 1


def expressions(node: object) -> Iterator[str]:
    """Yield every query of the dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query") and isinstance(value, str) and value != "prometheus":
                yield value
            yield from expressions(value)
    elif isinstance(node, list):
        for item in node:
            yield from expressions(item)


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = list(expressions(dashboard))
    assert len(queries) > 15
    for query in queries:
        names = set(re.findall(r"\bedged_\w+", query))
        assert names, query
        assert names <= NAMES, query
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["type"] for panel in panels} == {"timeseries"}
