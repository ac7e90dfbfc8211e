"""A start waits for external problems to end (T6), and refuses a malicious bundle by name (T5)."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edged.commands.local_broker import Broker
from tests.requirements import require
from tests.system.broker.configured import configured
from tests.system.hostile.attacker import attacker
from tests.system.hostile.supervisor import Supervisor, supervised
from tests.tiny_model import write_tiny_bundle

_FAKED = 'mount --bind "$0" /proc/meminfo && exec "$@"'
FLOOR_BYTES = 2 * 1024**3
BUNDLES: dict[str, dict[str, Any]] = {
    "a cache that takes nothing": {"model": {"kv_bytes_per_token": 0}},
    "a template of 300 MB": {"chat_template": "{{ 'ab ' * 100000000 }}"},
    "a macro that calls itself": {
        "chat_template": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"
    },
    "a loop of years": {
        "chat_template": "{% for a in range(99999) %}{% for b in range(99999) %}x"
        "{% endfor %}{% endfor %}"
    },
    "a template that doubles": {
        "chat_template": "{% set ns = namespace(t='x') %}{% for a in range(40) %}"
        "{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}"
    },
}


def _says(words: str) -> Any:  # noqa: ANN401 - a predicate
    def holds(lines: Sequence[str]) -> bool:
        return any(line.startswith("STATUS=") and words in line for line in lines)

    return holds


def _assert_serves(process: Supervisor, broker: Broker) -> None:
    process.until_serving()
    with attacker(broker.port) as client:
        assert client.ask_honestly().problem is None
    assert "Traceback" not in process.log


def test_a_model_that_is_mounted_late_is_loaded_when_it_appears(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    write_tiny_bundle(elsewhere)
    with supervised(tmp_path, *configured(tmp_path, folder, mosquitto)) as process:
        assert process.wait_for(_says(f"{folder}:")), process.log
        assert not process.is_dead
        elsewhere.rename(folder)
        _assert_serves(process, mosquitto)


def test_a_missing_file_of_the_model_is_waited_for(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    folder = write_tiny_bundle(tmp_path / "model")
    kept = (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with supervised(tmp_path, *configured(tmp_path, folder, mosquitto)) as process:
        assert process.wait_for(_says("tokenizer.json")), process.log
        assert not process.is_dead
        kept.rename(folder / "tokenizer.json")
        _assert_serves(process, mosquitto)


def test_a_start_waits_until_enough_memory_is_available(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    """The kernel's figures are replaced for the daemon only, in its own mount namespace."""
    require(os.geteuid() == 0, "mounting needs root")
    true = Path("/proc/meminfo").read_text()
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(_with_available(true, FLOOR_BYTES // 2))
    budget = {"memory": "512M", "min_available": FLOOR_BYTES}
    arguments = configured(tmp_path, bundle, mosquitto, budget=budget)
    before = ("unshare", "--mount", "sh", "-c", _FAKED, str(meminfo))
    with supervised(tmp_path, *arguments, before=before) as process:
        assert process.wait_for(_says("min_available")), process.log
        assert not process.is_dead
        meminfo.write_text(_with_available(true, FLOOR_BYTES * 2))  # in place: the mount stays
        _assert_serves(process, mosquitto)


def _with_available(meminfo: str, available_bytes: int) -> str:
    lines = [
        f"MemAvailable: {available_bytes // 1024} kB" if line.startswith("MemAvailable") else line
        for line in meminfo.splitlines()
    ]
    return "\n".join([*lines, ""])


@pytest.mark.parametrize("change", BUNDLES.values(), ids=list(BUNDLES))
def test_a_malicious_bundle_is_refused_by_name_or_affects_its_own_requests_only(
    change: dict[str, Any], mosquitto: Broker, tmp_path: Path
) -> None:
    """Problems visible at load time are reported; others affect their own requests only."""
    folder = write_tiny_bundle(tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for key, value in change.items():
        manifest[key] = manifest[key] | value if isinstance(value, dict) else value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    name = "kv_bytes_per_token" if "model" in change else "chat_template"
    with supervised(tmp_path, *configured(tmp_path, folder, mosquitto)) as process:
        assert process.wait_for(
            lambda lines: _says("serving")(lines) or _says(name)(lines) or "ENDED" in str(lines)
        ), process.log
        lines = [line for _, line in process.told]
        if _says("serving")(lines):
            assert name == "chat_template", "a cache that was planned as nothing is served"
            with attacker(mosquitto.port) as client:
                asked = client.ask_honestly()
                assert [reply.code for reply in asked.replies] == ["bad_request"]
        else:
            assert _says(name)(lines) or name in process.log
        assert process.num_restarts == 0
        assert "Traceback" not in process.log
