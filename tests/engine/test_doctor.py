"""``edged doctor``: each finding appears when its cause does, and comes with advice."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edged.bundle.folder import Bundle, open_bundle
from edged.bundle.manifest import GraphKind, ModelFacts
from edged.cli import main
from edged.commands.doctor import command
from edged.commands.doctor import model as model_checks
from edged.commands.doctor.cpu import check_cpu
from edged.commands.doctor.device import check_clock, check_device, is_disciplined
from edged.commands.doctor.finding import Finding, Level
from edged.commands.doctor.model import (
    check_attention,
    check_memory,
    check_specialists,
    open_model,
)
from edged.commands.doctor.offline import check_offline
from edged.commands.doctor.service import Service, check_service, failed_unit, find_service
from edged.config.keys import BrokerConfig, Config
from edged.config.load import load_config
from edged.errors import BundleError
from edged.specialists.folder import BaseModel, write_specialist
from edged.specialists.lesson import taught
from tests.tiny_model import tiny_manifest, write_tiny_bundle
from tests.unit.lessons import lesson

PI_LINE = "console=serial0,115200 root=PARTUUID=1-02 rootfstype=ext4"


def only(findings: Iterator[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check.startswith(check)]
    assert (found.advice is None) == (found.level is Level.OK), "what is not good needs advice"
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    pytest.importorskip("onnx")
    return open_bundle(write_tiny_bundle(tmp_path / "tiny"))


def config_of(bundle: Bundle, more: str = "") -> Config:
    return load_config(f"model: {{path: {bundle.folder}}}\n{more}", "edged.yaml")


def proc_with(folder: Path, line: str) -> Path:
    (folder / "cpuinfo").write_text(f"processor : 0\n{line}\n\nprocessor : 1\n", "utf-8")
    return folder


FACTS = ModelFacts("llama", 1000, vocab_size=256, num_layers=2, kv_bytes_per_token=64)
KERNELS = {
    "int8-w8a8": {"x86_64": "avx2", "aarch64": "asimd"},
    "int8-blockwise": {"x86_64": "avx2", "aarch64": "asimddp"},
}


@pytest.mark.parametrize(
    ("machine", "line", "scheme", "levels"),
    [
        ("x86_64", "flags : fpu avx2 avx512_vnni", "int8-w8a8", {"cpu": "ok", "kernels": "ok"}),
        ("x86_64", "flags : fpu avx2", "int8-blockwise", {"cpu": "ok", "kernels": "ok"}),
        ("x86_64", "flags : fpu sse4_2", None, {"cpu": "failure"}),
        ("aarch64", "Features : fp asimd", "int8-w8a8", {"cpu": "ok", "kernels": "ok"}),
        ("aarch64", "Features : fp asimd", "int8-blockwise", {"cpu": "ok", "kernels": "failure"}),
        (
            "aarch64",
            "Features : fp asimd asimddp",
            "int8-blockwise",
            {"cpu": "ok", "kernels": "ok"},
        ),
        ("aarch64", "Features : fp asimd", None, {"cpu": "ok"}),
        ("armv7l", "Features : neon", None, {"cpu": "failure"}),
    ],
)
def test_a_processor_is_judged_by_the_kernels_that_it_has(
    machine: str, line: str, scheme: str | None, levels: dict[str, str], tmp_path: Path
) -> None:
    toy = tiny_manifest(FACTS, graph=GraphKind.FUSED)
    manifest = replace(toy, scheme=scheme, kernels=KERNELS[scheme]) if scheme else None
    found = list(check_cpu(manifest, proc_with(tmp_path, line), machine))
    assert {finding.check: finding.level.value for finding in found} == levels


def test_without_cpuinfo_the_processor_is_not_praised(tmp_path: Path) -> None:
    assert only(check_cpu(None, tmp_path, "x86_64"), "cpu").level is Level.FAILURE


def raspberry(root: Path, *, controllers: str = "cpu io", files: dict[str, str]) -> Path:
    contents = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cgroup.controllers": controllers,
        **files,
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, "utf-8")
    return root


def test_where_the_kernel_cannot_limit_memory_the_whole_line_to_write_is_given(
    tmp_path: Path,
) -> None:
    root = raspberry(tmp_path, files={"boot/firmware/cmdline.txt": PI_LINE + "\n"})
    found = only(check_device((), root), "memory-control")
    assert found.level is Level.WARNING
    assert found.advice is not None
    assert found.advice.endswith(f"{PI_LINE} cgroup_enable=memory cgroup_memory=1")
    (root / "boot/firmware/cmdline.txt").unlink()
    elsewhere = only(check_device((), root), "memory-control")
    assert "kernel's command line" in str(elsewhere.advice)


def test_where_it_can_all_is_well(tmp_path: Path) -> None:
    root = raspberry(tmp_path, controllers="cpu memory", files={})
    assert only(check_device((), root), "memory-control").level is Level.OK


@pytest.mark.parametrize(("millidegrees", "level"), [("61000", "ok"), ("85000", "warning")])
def test_a_hot_device_is_reported(millidegrees: str, level: str, tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone"
    files = {f"{zone}0/temp": millidegrees, f"{zone}1/temp": "off"}
    found = only(check_device((), raspberry(tmp_path, files=files)), "temperature")
    assert found.level.value == level


@pytest.mark.parametrize(
    ("bits", "level", "word"),
    [("0", "ok", "no under-voltage"), ("50005", "warning", "now"), ("50000", "warning", "since")],
)
def test_a_weak_supply_is_reported(bits: str, level: str, word: str, tmp_path: Path) -> None:
    name = "sys/devices/platform/soc/soc:firmware/get_throttled"
    found = only(check_device((), raspberry(tmp_path, files={name: bits})), "power")
    assert (found.level.value, word in found.said) == (level, True)


def test_a_folder_without_room_or_without_writing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only(check_device((tmp_path / "not/yet",)), "disk").level is Level.OK
    real = os.statvfs(tmp_path)
    fields = list(real)
    fields[4] = 1  # f_bavail
    monkeypatch.setattr("os.statvfs", lambda _place: os.statvfs_result(fields))
    assert "free space" in str(only(check_device((tmp_path,)), "disk").advice)
    fields[8] = os.ST_RDONLY
    assert "read-only" in only(check_device((tmp_path,)), "disk").said


def test_a_clock_that_was_never_set_fails_and_one_that_is_not_synchronised_is_reported() -> None:
    assert check_clock(0.0, lambda: True).level is Level.FAILURE
    assert check_clock(2e9, lambda: False).level is Level.WARNING
    assert check_clock(2e9, lambda: True).level is Level.OK
    assert is_disciplined() in (True, False)


def test_a_model_is_read_and_compared_with_its_manifest(bundle: Bundle) -> None:
    opened, found = open_model(config_of(bundle))
    assert opened is not None
    assert found.level is Level.OK
    (bundle.folder / "tokenizer.json").write_text("{}", "utf-8")
    opened, found = open_model(config_of(bundle))
    assert opened is None
    assert (found.level, "tokenizer.json" in found.said) == (Level.FAILURE, True)


def test_a_model_below_its_gate_is_reported(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = replace(bundle.manifest.quality, passed=False)
    missed = replace(bundle, manifest=replace(bundle.manifest, quality=quality))
    monkeypatch.setattr(model_checks, "open_bundle", lambda _folder, trust: missed)
    assert open_model(config_of(bundle))[1].level is Level.WARNING


def test_a_specialist_that_the_service_leaves_out_fails(bundle: Bundle, tmp_path: Path) -> None:
    made = taught(lesson(), lambda _: None)
    base = BaseModel.of(bundle.manifest)
    names = ["lamp", "twin", "foreign", "missing"]
    for name in names[:3]:
        found_base = made.description.base if name == "foreign" else base
        description = replace(made.description, name="lamp", base=found_base)
        write_specialist(tmp_path / name, replace(made, description=description))
    folders = ", ".join(str(tmp_path / name) for name in names)
    config = config_of(bundle, f"specialists: [{folders}]")
    found = list(check_specialists(config, bundle.manifest))
    said = ["lamp is intact", "the name lamp is taken", "taught to another", "cannot be read"]
    levels = [Level.OK, *[Level.FAILURE] * 3]
    for name, text, level in zip(names, said, levels, strict=True):
        one = only(iter(found), f"specialist {tmp_path / name}")
        assert (one.level, text in one.said) == (level, True)


def test_the_memory_plan_is_reported_in_parts_and_what_helps_when_it_does_not_fit(
    bundle: Bundle,
) -> None:
    found = check_memory(config_of(bundle), bundle, 0)
    assert found.level is Level.OK
    parts = ("weights_bytes", "kv_bytes", "working_bytes")
    assert all(found.figures[part] > 0 for part in parts)
    small = check_memory(config_of(bundle, "budget: {memory: 32M}"), bundle, 0)
    assert small.level is Level.FAILURE
    assert "raise it to" in str(small.advice)


def test_the_model_agrees_with_itself_in_one_piece_and_in_several(bundle: Bundle) -> None:
    assert only(check_attention(config_of(bundle), bundle), "attention").level is Level.OK


@dataclass
class Wrong:
    """A graph whose runs of one token, or of an answer, have nothing to do with the others."""

    wrong_for: str
    vocab_size: int = 50

    def forward(self, token_ids: np.ndarray, _start: int, *, is_prefill: bool) -> np.ndarray:
        seed = len(token_ids) if self.wrong_for == "one token" else int(is_prefill)
        return np.random.default_rng(seed).normal(size=(1, 50)).astype(np.float32)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("wrong_for", ["one token", "answers"])
def test_a_kernel_that_is_wrong_is_found(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, wrong_for: str
) -> None:
    monkeypatch.setattr(model_checks, "load_graph", lambda *_, **__: Wrong(wrong_for))
    found = only(check_attention(config_of(bundle), bundle), "attention")
    assert (found.level, found.figures["difference"] > 1) == (Level.FAILURE, True)


def test_the_self_test_leaves_a_full_device_alone(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.daemon.memory.available_bytes", lambda: 1 << 20)
    found = only(check_attention(config_of(bundle), bundle), "attention")
    assert (found.level, "skipped" in found.said) == (Level.WARNING, True)


def test_a_model_that_cannot_be_loaded_fails(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BundleError("model.onnx: cannot be loaded")

    monkeypatch.setattr(model_checks, "load_graph", refuse)
    assert only(check_attention(config_of(bundle), bundle), "attention").level is Level.FAILURE


def test_a_service_is_judged_by_its_state_file(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    config = config_of(bundle, f"state: {{file: {file}}}")
    service = find_service("", os.getpid())
    assert service is not None
    assert service.resident_bytes > 1 << 20
    assert only(check_service(config, None, 0.0), "service").level is Level.WARNING
    assert only(check_service(config, service, 0.0), "state").level is Level.FAILURE
    for is_enforced, level in ((True, Level.OK), (False, Level.WARNING)):
        file.write_text(
            '{"state": "ready", "budget_bytes": 1048576, "budget_enforced": '
            f"{str(is_enforced).lower()}}}",
            "utf-8",
        )
        found = list(check_service(config, service, file.stat().st_mtime))
        assert only(iter(found), "enforcement").level is level
    file.write_text('{"state": "ready", "budget_bytes": "x"}', "utf-8")
    found = list(check_service(config, service, file.stat().st_mtime))
    assert only(iter(found), "state").level is Level.FAILURE
    file.write_text('{"state": "ready", "broker_error": "timed out"}', "utf-8")
    found = list(check_service(config, service, file.stat().st_mtime))
    cut_off = only(iter(found), "state")
    assert (cut_off.level, "no broker: timed out" in cut_off.said) == (Level.FAILURE, True)
    without = check_service(config_of(bundle), service, 0.0)
    assert only(without, "state").level is Level.WARNING


@pytest.mark.parametrize(
    ("active", "sub", "said"),
    [
        ("failed", "failed", "failed (exit-code, exit status 78)"),
        ("activating", "auto-restart", "auto-restart (exit-code, exit status 78)"),
        ("inactive", "dead", None),
        ("active", "running", None),
    ],
)
def test_a_service_that_failed_is_told_from_one_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, active: str, sub: str, said: str | None
) -> None:
    program = tmp_path / "systemctl"
    lines = f"ActiveState={active}\nSubState={sub}\nResult=exit-code\nExecMainStatus=78"
    program.write_text(f"#!/bin/sh\ncat << END\n{lines}\nEND\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    failed = failed_unit("edged.service")
    assert failed == said
    config = load_config("model: {path: none}", "edged.yaml")
    found = only(check_service(config, None, 0.0, failed), "service")
    assert found.level is (Level.WARNING if said is None else Level.FAILURE)


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (None, None),
        ("missing", "No such file"),
        ("read-only", "read-only"),
        ("another user", "another user's"),
    ],
)
def test_a_state_folder_that_the_service_cannot_write_to_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str | None, said: str | None
) -> None:
    # As the service sees it: its unit may have the folder read-only for it alone.
    seen = tmp_path / "proc" / "root" / "srv" / "edged"
    if cause != "missing":
        seen.mkdir(parents=True, mode=0o700)
    fields = list(os.statvfs(tmp_path))
    fields[8] = os.ST_RDONLY if cause == "read-only" else 0
    real = os.statvfs
    result = os.statvfs_result(fields)
    monkeypatch.setattr("os.statvfs", lambda place: result if seen.exists() else real(place))
    user_id = os.geteuid() + (1 if cause == "another user" else 0)
    service = Service(1, 1, user_id, tmp_path / "proc")
    config = load_config("model: {path: none}\nstate: {folder: /srv/edged}", "edged.yaml")
    found = [one for one in check_service(config, service, 0.0) if one.check == "state-folder"]
    if said is None:
        assert found == []
    else:
        assert (found[0].level, said in found[0].said) == (Level.FAILURE, True)


def test_a_process_that_is_gone_is_no_service() -> None:
    assert find_service("no-such-unit.service") is None
    assert find_service("", 2**22 + 1) is None


def test_a_listening_socket_a_stranger_and_a_datagram_are_found() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagram,
    ):
        datagram.bind(("::1", 0))
        port = server.getsockname()[1]
        found = list(check_offline(os.getpid(), BrokerConfig(host="127.0.0.1", port=1)))
        assert only(iter(found), "listening").said == f"it listens on 127.0.0.1:{port}"
        assert f"127.0.0.1:{port}" in only(iter(found), "connections").said
        assert "[::1]:" in only(iter(found), "datagrams").said


def test_the_brokers_connection_is_the_one_that_is_right() -> None:
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        socket.create_connection(("127.0.0.1", server.getsockname()[1])) as client,
    ):
        port = server.getsockname()[1]
        accepted, _ = server.accept()
        # The other end is in this process as well, and is the stranger here.
        other = client.getsockname()[1]
        with accepted:
            found = only(
                check_offline(os.getpid(), BrokerConfig(host="localhost", port=port)), "connections"
            )
        assert f":{other}" in found.said
        assert f"127.0.0.1:{port}" not in found.said


def test_what_may_not_be_looked_at_says_how(tmp_path: Path) -> None:
    class Closed(type(tmp_path)):  # type: ignore[misc] # pathlib's own class, chosen at run time
        def iterdir(self) -> Iterator[Path]:
            raise PermissionError(13, "no")

    found = only(check_offline(1, BrokerConfig(), Closed(tmp_path)), "offline")
    assert found.advice == "run this as root: sudo"


def test_without_a_configuration_the_device_is_looked_at_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = str(tmp_path / "edged.yaml")
    assert main(["doctor", "--config", gone]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"FAIL  configuration: {gone}: cannot be read")
    assert "clock" in said
    assert main(["doctor", "--config", gone, "--offline"]) == 1
    assert "clock" not in capsys.readouterr().out


def test_the_specialists_of_the_configuration_are_looked_at(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, missing = tmp_path / "edged.yaml", tmp_path / "missing"
    lines = ["node: x", f"model: {{path: {bundle.folder}}}", f"specialists: [{missing}]"]
    file.write_text("\n".join([*lines, "broker: {port: 1}"]), "utf-8")
    assert main(["doctor", "--config", str(file)]) == 1
    assert f"specialist {missing}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("unit", "name"),
    [("edged.service", "edged"), ("edged@two.service", "two"), ("edged@two", "two")],
)
def test_a_unit_is_looked_at_with_its_own_configuration(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unit: str,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "DEFAULT_CONFIG", tmp_path / "edged.yaml")
    assert main(["doctor", "--offline", "--unit", unit]) == 1
    assert f"FAIL  configuration: {tmp_path}/{name}.yaml: cannot be read" in capsys.readouterr().out


def test_offline_needs_a_service_to_look_at(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", "--offline", "--model", str(bundle.folder), "--unit", "no-such.service"]
    assert main(words) == 1
    assert "no running service" in capsys.readouterr().out
