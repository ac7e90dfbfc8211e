"""``edged check``: what would stop a start is found without one."""

import os
import re
from pathlib import Path

import pytest

from edged.bundle.folder import open_bundle
from edged.cli import main
from edged.config.keys import BrokerConfig, Config
from edged.config.load import load_config
from edged.daemon.check import changed, check
from edged.daemon.invocation import check_broker_files
from edged.daemon.loader import load
from edged.errors import BundleError, ConfigError, EdgedError, ExitCode, UnavailableError
from tests.signing import private_key, public_pem, sign
from tests.tiny_model import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    return write_tiny_bundle(tmp_path / "bundle")


def config_of(bundle: Path, more: str = "") -> Config:
    return load_config(f"model: {{path: {bundle}}}\n{more}", "edged.yaml")


def test_a_good_configuration_is_told_with_its_model_and_node(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--model", str(bundle), "--node", "kitchen"]) == 0
    assert capsys.readouterr().out.startswith("ok: tiny")


def test_a_wrong_key_ends_with_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edged.yaml").write_text("nonsense: 1\n", "utf-8")
    assert main(["check", "--config", str(tmp_path / "edged.yaml")]) == ExitCode.CONFIG
    assert "nonsense: unknown key" in capsys.readouterr().err


def test_a_damaged_model_is_found_unless_it_is_the_one_that_runs(bundle: Path) -> None:
    config, running = config_of(bundle), open_bundle(bundle)
    tokenizer = bundle / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        check(config)
    assert check(config, trusted_sha256=running.sha256).sha256 == running.sha256


@pytest.mark.parametrize(
    ("more", "key", "kind"),
    [
        ("budget: {memory: 32M}", "budget.memory", ConfigError),
        ("broker: {username: a, password_file: missing}", "broker.password_file", UnavailableError),
        ("broker: {tls: true, ca_file: missing.pem}", "broker.ca_file", UnavailableError),
    ],
)
def test_what_would_stop_the_start_or_hold_it_up_is_named(
    bundle: Path, more: str, key: str, kind: type[EdgedError]
) -> None:
    with pytest.raises(kind, match=key):
        check(config_of(bundle, more))


def test_what_is_no_regular_file_is_refused_with_its_key() -> None:
    """A named pipe would be waited for; this is a device, so that a failure ends the test."""
    device = Path(os.devnull)
    for key, broker in (
        ("password_file", BrokerConfig(username="a", password_file=device)),
        ("ca_file", BrokerConfig(tls=True, ca_file=device)),
    ):
        with pytest.raises(UnavailableError, match=f"broker.{key}: {device}: not a regular file"):
            check_broker_files(broker)


def test_with_a_key_a_model_that_is_not_signed_neither_starts_nor_is_taken_up(
    bundle: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    key = private_key()
    (keys / "maker.pem").write_bytes(public_pem(key))
    config, running = config_of(bundle, f"security: {{keys: {keys}}}"), open_bundle(bundle)
    unsigned = f"not signed: it has no model.sig; sign it with a key of {keys} (maker)"
    with pytest.raises(BundleError, match=re.escape(unsigned)):
        changed(lambda: config, running.sha256)
    with pytest.raises(BundleError, match="not signed"):
        load(config)
    sign(bundle, key)
    assert check(config).sha256 == running.sha256
    assert changed(lambda: config, running.sha256) == (config, running)
    off = config_of(bundle, f"security: {{keys: {keys}, require_signature: false}}")
    (bundle / "model.sig").unlink()
    assert check(off).sha256 == running.sha256


def test_a_reload_is_refused_with_the_reason(bundle: Path) -> None:
    running = open_bundle(bundle)
    assert changed(lambda: config_of(bundle), running.sha256).config == config_of(bundle)
    with pytest.raises(BundleError, match="gone"):
        changed(lambda: config_of(bundle / "gone"), running.sha256)
