"""From samples to table, page, plot and board."""

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.compare import board, page, table
from benchmarks.compare.figures import document, ratios
from benchmarks.compare.goals import GOALS, goal_rows
from benchmarks.compare.plot import plot
from edged.commands.bench.figures import ROWS, aligned, median

SVG = "{http://www.w3.org/2000/svg}"


def made() -> dict[str, Any]:
    """A document of three runs of two engines."""
    edged: dict[str, list[float | None]] = {
        "prefill_512_tok_s": [900.0, 1000.0, 800.0],
        "decode_tok_s": [90.0, 100.0, 80.0],
        "decode_1984_tok_s": [72.0, 72.0, 72.0],
        "ttft_s": [0.04, 0.04, 0.04],
        "rss_bytes": [2**28, 2**28, 2**28],
        "loaded_rss_bytes": [2**27, 2**27, 2**27],
        "concurrent_1_tok_s": [90.0, 90.0, 90.0],
        "concurrent_4_tok_s": [None, None, None],
    }
    other: dict[str, list[float | None]] = {
        "prefill_512_tok_s": [300.0, 300.0, 300.0],
        "decode_tok_s": [50.0, 60.0, 40.0],
        "ttft_s": [0.16, 0.16, 0.16],
        "concurrent_1_tok_s": [45.0, 45.0, 45.0],
        "concurrent_4_tok_s": [120.0, 120.0, 120.0],
    }
    found = document({"edged": edged, "llama.cpp": other}, [20e9, 24e9, 22e9], 150_000_000)
    return {
        **found,
        "daemon": {"ready_s": 1.25, "idle_cpu_share": 0.003, "rss_bytes": 230e6},
        "model": {"id": "smollm2-135m-instruct-int8@abc", "scheme": "int8"},
        "num_threads": 2,
        "max_model_len": 2048,
        "runs": 3,
        "left_out": {"openvino": "openvino_genai is not installed: pip it"},
        "idle_cpu_share": 0.004,
        "disturbance_share": 0.01,
        "versions": {"python": "3.11.7", "edged": "0.1.0", "onnxruntime": "1.32.0"},
        "device": {
            "name": "Board | A & B",
            "cpus": 4,
            "cpu_flags": ["asimddp"],
            "memory_bytes": 2**32,
            "architecture": "aarch64",
            "system": "Linux 6",
            "load_before": 0.1,
        },
        "date": "2026-11-24",
        "command": "python -m benchmarks.compare --model m --against 'llama.cpp=a b.gguf'",
    }


def test_medians_need_a_value_of_every_run() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([1.0, 2.0]) == 1.5
    assert median([1.0, None]) is None
    assert median([]) is None


def test_the_document_has_the_documented_structure() -> None:
    found = made()
    edged = found["engines"]["edged"]
    assert edged["decode_tok_s"] == 90.0
    assert (edged["concurrent_1_tok_s"], edged["concurrent_4_tok_s"]) == (90.0, None)
    assert edged["loaded_rss_bytes"] == 2**27
    assert found["read_bandwidth_bytes_s"] == 22e9
    assert found["roofline"] == pytest.approx(150e6 * 90 / 22e9)
    assert found["samples"]["llama.cpp"]["decode_tok_s"] == [50.0, 60.0, 40.0]
    assert json.loads(json.dumps(found)) == found


def test_ratios_are_edgeds_figures_divided_by_the_others() -> None:
    found = made()["ratios"]["llama.cpp"]
    assert found["decode_tok_s"] == pytest.approx(1.8)
    assert found["ttft_s"] == pytest.approx(0.25)
    assert found["concurrent_1_tok_s"] == 2.0
    assert not {"concurrent_4_tok_s", "rss_bytes"} & set(found)
    assert ratios({"edged": {"x": 1.0}, "b": {"x": 0.0}}) == {"b": {}}


def test_a_figure_without_samples_is_omitted() -> None:
    found = document({"edged": {}}, [1e9], 1)
    assert found["roofline"] is None


def test_the_table_shows_median_and_spread_and_leaves_empty_rows_out() -> None:
    cells = {row[0]: row[1:] for row in table.figures(made())}
    assert cells[""] == ["edged", "llama.cpp", "edged ÷ llama.cpp"]
    assert cells["decode at 64 tokens, tok/s"] == [
        "90.0 (80.0 to 100.0)",
        "50.0 (40.0 to 60.0)",
        "1.80 x",
    ]
    assert cells["first token of 42, cold, ms"] == ["40.0", "160.0", "0.25 x"]
    assert cells["RSS after work, MiB"] == ["256", "-", "-"]
    assert not any("1,536" in title for title in cells)
    lines = aligned(table.figures(made())).splitlines()
    assert len({line.index("÷") for line in lines[:1]}) == 1
    assert all(line == line.rstrip() for line in lines)


def test_remarks_name_the_roofline_the_daemon_and_what_is_left_out() -> None:
    text = "\n".join(table.remarks(made()))
    assert "roofline of decode: 0.61" in text
    assert "no batching" in text
    assert "READY after 1.25 s, RSS 219 MiB, private dirty 0 MiB; idle, 0.3% of a CPU" in text
    assert "openvino: left out: openvino_genai is not installed" in text
    assert "other programs used 1% of the machine during edged's turns\n" in text + "\n"
    busy = "\n".join(table.remarks({**made(), "disturbance_share": 0.4}))
    assert "40% of the machine during edged's turns; repeat it on an idle one" in busy
    gone = "\n".join(table.remarks({**made(), "daemon": None, "roofline": None}))
    assert "daemon: it did not start" in gone
    assert "roofline" not in gone


def test_goals_are_met_missed_or_not_measured() -> None:
    verdicts = {row[0]: row[1:] for row in goal_rows(made())}
    assert len(verdicts) == len(GOALS)
    assert verdicts["decode, ÷ llama.cpp"] == ["≥ 1.8 x", "1.8 x", "met"]
    assert verdicts["prefill of 512, ÷ llama.cpp"][2] == "missed"
    assert verdicts["first token, ÷ llama.cpp"] == ["≤ 0.2 x", "0.25 x", "missed"]
    assert verdicts["decode at 1,984, ÷ at 64"] == ["≥ 0.7 x", "0.8 x", "met"]
    assert verdicts["daemon's start to READY"][2] == "met"
    assert verdicts["4 concurrent, ÷ one"] == ["≥ 2.5 x", "-", "not measured"]
    other = {**made(), "model": {"id": "tiny@1", "scheme": "fp32"}}
    assert list(goal_rows(other)) == []


def test_the_page_carries_device_versions_date_and_command() -> None:
    text = page.page(made())
    for part in ("Board | A & B", "onnxruntime 1.32.0", "2026-11-24", made()["command"]):
        assert part in text
    assert "| decode at 64 tokens, tok/s | 90.0 (80.0 to 100.0) |" in text
    assert "## Goals" in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "## Goals" not in page.page({**made(), "model": {"id": "tiny@1"}})


def test_only_a_document_can_be_loaded() -> None:
    assert page.load(json.dumps(made())) == made()
    for text in ("[]", "{}", "{"):
        with pytest.raises(ValueError, match=r"benchmarks\.compare|Expecting"):
            page.load(text)


def test_the_plot_has_one_line_an_engine_in_each_diagram() -> None:
    found = made()
    root = ET.fromstring(plot(found))  # noqa: S314 - our own text
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 4
    assert lines[0].get("points", "").count(",") == 2  # decode at 64 and at 1,984
    assert any("Board | A & B" in (text.text or "") for text in root.iter(f"{SVG}text"))
    for circle in root.iter(f"{SVG}circle"):
        assert 60 <= float(circle.get("cx", 0)) <= 830
        assert 80 <= float(circle.get("cy", 0)) <= 330
    nothing = copy.deepcopy(found)
    nothing["engines"] = {"edged": {}}
    root = ET.fromstring(plot(nothing))  # noqa: S314 - our own text
    assert root.findall(f"{SVG}circle") == []


def test_a_board_gets_its_header_once_and_a_row_each_time(tmp_path: Path) -> None:
    file = tmp_path / "board.md"
    row = board.add_row(made(), file)
    assert board.add_row(made(), file) == row
    head, rule, *rows = file.read_text("utf-8").splitlines()
    assert rows == [row, row]
    assert head.count("|") == rule.count("|") == row.count("|")
    assert "Board / A & B" in row
    assert board.add_row(made(), None).splitlines() == [head, rule, row]


def test_every_shown_figure_is_one_that_is_sampled() -> None:
    assert len({row.title for row in ROWS}) == len({row.name for row in ROWS}) == len(ROWS)
