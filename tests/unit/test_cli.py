"""The ``edged`` command: subcommands by name, exit codes from sysexits, nothing heavy loaded."""

import subprocess
import sys
import types

import pytest

import edged
from edged.cli import COMMANDS, main
from edged.errors import ConfigError, ExitCode


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"edged {edged.__version__}\n"


@pytest.mark.parametrize("words", [[], ["brew"], ["health", "--colour"]])
def test_a_wrong_command_line_exits_64_and_points_at_the_help(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == ExitCode.USAGE
    assert "--help" in capsys.readouterr().err


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in COMMANDS)


# Those that have actions, and an action with options of its own.
ACTIONS = ["model install", "model remove", "key add"]


@pytest.mark.parametrize("words", [*sorted(COMMANDS), *ACTIONS])
def test_each_command_has_its_help(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = words.partition(" ")[0]
    if ".builder." in COMMANDS[name].module:
        for package in ("optimum", "model_signing"):
            pytest.importorskip(package, reason="the extra `build` is missing: scripts/setup build")
    with pytest.raises(SystemExit) as exit_info:
        main([*words.split(), "--help"])
    assert exit_info.value.code == 0
    assert "{'" not in capsys.readouterr().out, "a percent sign took what argparse has"


def fake_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    module = types.ModuleType("edged.fake")

    def fail(_arguments: object) -> int:
        raise error

    module.add_arguments = lambda _parser: None  # type: ignore[attr-defined]
    module.main = fail  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.import_module", lambda _name: module)


def test_an_error_becomes_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_command(monkeypatch, ConfigError("broker.hots: unknown key"))
    assert main(["health"]) == ExitCode.CONFIG
    assert capsys.readouterr().err == "edged health: broker.hots: unknown key\n"


def test_an_error_that_quotes_a_stranger_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_command(monkeypatch, ConfigError("node attic: busy\x1b]0;owned\x07"))
    assert main(["teach"]) == ExitCode.CONFIG
    assert capsys.readouterr().err == "edged teach: node attic: busy\ufffd]0;owned\ufffd\n"


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_command(monkeypatch, ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert main(["build"]) == ExitCode.UNAVAILABLE
    assert "edged[build]" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        main(["health"])


def test_the_conformance_kit_is_named_when_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "edged_conformance", None)
    monkeypatch.delitem(sys.modules, "edged_conformance.command", raising=False)
    assert main(["conformance", "--list"]) == ExitCode.UNAVAILABLE
    assert "`pip install ./tests/conformance`" in capsys.readouterr().err


def test_control_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_command(monkeypatch, KeyboardInterrupt())
    assert main(["health"]) == 130


def test_the_daemon_loads_no_build_tool_and_switches_telemetry_off() -> None:
    code = (
        "import edged.daemon.run, edged.commands.ask, os, sys;"
        "bad = {'torch', 'transformers', 'optimum', 'onnx', 'onnx_ir'} & set(sys.modules);"
        "print(sorted(bad), os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[] 1\n"


def test_whoever_reads_may_stop_reading() -> None:
    """As in `edged --help | head -1`: no traceback, and the status of a broken pipe."""
    script = "import edged.cli; edged.cli.importlib.import_module = lambda _: edged.cli.fake"
    script += "; edged.cli.fake = type('F', (), {'add_arguments': staticmethod(lambda _: None),"
    script += " 'main': staticmethod(lambda _: [print('x' * 9999) for _ in range(99)] and 0)})"
    script += "; raise SystemExit(edged.cli.main(['top']))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
