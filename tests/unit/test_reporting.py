"""The status of a node: what ``info`` and ``state`` have, and when they are published."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from edged.config.keys import Config
from edged.config.load import load_config
from edged.daemon.model_trial import ModelTrial
from edged.daemon.reporting import Reporter, info_members
from edged.protocol.request import FormatType
from tests.fakes import LIMITS, Bench, fake_model
from tests.paths import ROOT
from tests.schemas import problems, strict


def config(text: str = "") -> Config:
    return load_config(text, "edged.yaml", overrides={"model.path": "m", "node": "kitchen"})


def schema(name: str) -> Any:  # noqa: ANN401 - JSON
    return strict(json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text("utf-8")))


class Stage:
    """A reporter of a node that has been up for a minute."""

    def __init__(self, text: str = "") -> None:
        self.bench = Bench()
        model = fake_model(config(text), self.bench.clock())
        self.bench.clock.advance(60.0)
        trial = ModelTrial(model.config, self.bench.clock)
        self.reporter = Reporter(model, self.bench.driver, trial)

    @property
    def states(self) -> list[dict[str, Any]]:
        return [sent.json for sent in self.bench.transport.on("/state")]

    def state(self) -> dict[str, Any]:
        self.reporter.tick(is_forced=True)
        return self.states[-1]


def test_info_has_the_model_and_the_limits_of_requests() -> None:
    text = (
        "queue: {size: 5}\nsessions: {count: 3, max_tokens: 100, idle: 60s}\n"
        "request: {timeout: 5s, max_timeout: 50s, max_tokens: 7, max_payload: 2KiB}\n"
        "group: {name: heating}\nstate: {corrections: 20, folder: /var/lib/edged}"
    )
    info = info_members(fake_model(config(text)))
    assert info["model"] == {
        "name": "tiny",
        "id": "tiny@abcdef",
        "sha256": "ab" * 32,
        "scheme": "int8-w8a8",
        "max_model_len": LIMITS.max_model_len,
    }
    assert info["limits"] == {
        "max_payload_bytes": 2048,
        "max_tokens": 7,
        "timeout_ms": 5000,
        "max_timeout_ms": 50_000,
        "queue": 5,
        "slots": 1,
        "sessions": 3,
        "session_tokens": 100,
        "session_idle_ms": 60_000,
        "corrections": 20,
    }
    assert info["group"] == "heating"
    assert info["formats"] == [kind.value for kind in FormatType]


@pytest.mark.parametrize(
    ("broker", "is_insecure"),
    [
        ("{host: localhost}", False),
        ("{host: 127.0.0.1}", False),
        ("{host: hub}", True),
        ("{host: hub, username: edged, password: p}", False),
    ],
)
def test_a_broker_on_the_network_without_a_user_is_insecure(
    broker: str, *, is_insecure: bool
) -> None:
    info = info_members(fake_model(config(f"broker: {broker}")))
    assert info["insecure_broker"] is is_insecure


def test_at_a_connection_all_that_is_retained_is_published() -> None:
    stage = Stage()
    stage.reporter.announce()
    sent = stage.bench.transport.sent
    topics = [message.message.topic.removeprefix("edged/kitchen/") for message in sent]
    assert topics == ["availability", "info", "homeassistant/device/edged_kitchen/config", "state"]
    assert all(message.retain for message in sent)
    assert sent[0].message.payload == b"online"
    assert problems(sent[1].json, schema("info")) == []
    assert problems(sent[3].json, schema("state")) == []


def test_state_has_load_memory_and_counters() -> None:
    stage = Stage()
    for name in ("a", "b"):
        stage.bench.deliver({"id": name, "prompt": "x"})
    stage.bench.deliver({"prompt": 7})
    state = stage.state()
    assert (state["state"], state["running"], state["queue"], state["slots"]) == ("ready", 1, 1, 1)
    assert state["rss_bytes"] == stage.bench.memory.rss_bytes
    assert state["available_bytes"] == stage.bench.memory.available_bytes
    assert (state["budget_bytes"], state["budget_enforced"]) == (LIMITS.budget.limit_bytes, False)
    assert state["refused_by_code"] == {"bad_request": 1}
    assert (state["expected_prefill_tok_s"], state["expected_decode_tok_s"]) == (100.0, 12.5)
    assert state["uptime_s"] == 60
    assert state["group"] is None


def test_state_says_when_the_node_stops_and_when_memory_is_short() -> None:
    stage = Stage()
    memory = stage.bench.memory
    stage.bench.memory = type(memory)(LIMITS.budget.limit_bytes + 1, memory.available_bytes)
    assert stage.state()["state"] == "degraded"
    stage.reporter.is_stopping = True
    assert stage.state()["state"] == "stopping"


def test_a_change_is_published_a_second_after_the_state_before() -> None:
    stage = Stage("state: {interval: 10s}")
    clock, reporter = stage.bench.clock, stage.reporter
    reporter.tick()
    published_s = clock()
    assert reporter.next_tick_s() == published_s + 10.0
    stage.bench.deliver({"prompt": "x"})
    assert reporter.next_tick_s() == published_s + 1.0
    clock.advance(0.5)
    reporter.tick()
    assert len(stage.states) == 1
    clock.advance(0.5)
    reporter.tick()
    assert [state["running"] for state in stage.states] == [0, 1]
    assert reporter.next_tick_s() == clock() + 10.0


def test_the_files_have_the_state_that_was_published(tmp_path: Path) -> None:
    """Also without a connection: then the file says why there is none."""
    state, metrics = tmp_path / "state.json", tmp_path / "edged.prom"
    stage = Stage(f"state: {{file: {state}}}\nmetrics: {{prometheus_file: {metrics}}}")
    stage.reporter.broker_error = "nothing listens"
    stage.state()
    assert json.loads(state.read_text())["broker_error"] == "nothing listens"
    assert "edged_queue_requests 0.0\n" in metrics.read_text()
    stage.bench.deliver({"prompt": "x"})
    stage.state()
    assert "edged_running_requests 1.0\n" in metrics.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["edged.prom", "state.json"]
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (state, metrics)]
    assert modes == [0o600, 0o644], "another user's program collects the metrics"


def test_a_file_that_cannot_be_written_is_named_by_its_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "missing" / "edged.prom"
    stage = Stage(f"metrics: {{prometheus_file: {missing}}}")
    stage.state()
    stage.state()
    assert caplog.text.count("metrics.prometheus_file: cannot be written") == 1
    assert len(stage.states) == 2
