"""``edged install`` and ``edged uninstall`` with a folder as the target system."""

import re
import shutil
from pathlib import Path

import pytest

import edged
from edged.cli import main
from edged.commands.install import settings
from edged.commands.install.layout import InstallError, Layout
from edged.config.keys import Config
from edged.config.load import load_config
from edged.errors import ExitCode
from tests.requirements import require
from tests.signing import private_key, public_pem
from tests.tiny_model import write_tiny_bundle

CONFIG = "etc/edged/edged.yaml"
DROP_IN = "etc/systemd/system/edged.service.d/10-install.conf"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system as ``edged install --root`` finds it: accounts, and the program in its place."""
    require(shutil.which("systemd-sysusers"), "systemd is not installed (apt-get install systemd)")
    root = tmp_path / "system"
    packages = root / "opt/edged/lib/python3.11/site-packages"
    (packages / f"edged-{edged.__version__}.dist-info").mkdir(parents=True)
    (root / "opt/edged/bin").mkdir()
    (root / "opt/edged/bin/edged").touch()
    (root / "opt/edged/pyvenv.cfg").touch()
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n", "utf-8")
    (root / "etc/group").write_text("root:x:0:\n", "utf-8")
    return root


def install(root: Path, *options: str) -> int:
    return main(["install", "--root", str(root), *options])


def configuration(root: Path, name: str = "edged") -> Config:
    path = root / f"etc/edged/{name}.yaml"
    return load_config(path.read_text("utf-8"), str(path))


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its mode and content."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        str(path.relative_to(root)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in files
    }


def test_an_installation_creates_user_model_configuration_secret_and_unit(
    root: Path, bundle: Path
) -> None:
    options = ["--node", "kitchen", "--budget", "400M"]
    broker = ["--broker", "mqtt://edged:s%20cret@10.0.0.2"]
    assert install(root, "--model", str(bundle), *options, *broker) == 0
    config = configuration(root)
    assert (config.node, config.broker.host, config.broker.username) == (
        "kitchen",
        "10.0.0.2",
        "edged",
    )
    assert config.security.identity == "required"
    assert config.budget.memory_bytes == 350 * 1024**2
    assert str(config.model.path) == "/var/lib/edged-models/tiny"
    assert (root / "var/lib/edged-models/tiny/manifest.json").exists()
    secret = root / "etc/edged/credentials/mqtt-password"
    assert secret.read_text("utf-8") == "s cret\n"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    drop_in = (root / DROP_IN).read_text("utf-8")
    assert "\nMemoryMax=400M\nLimitDATA=600M\nLoadCredential=mqtt-password:/etc/" in drop_in
    assert str(config.broker.password_file) == "/run/credentials/edged.service/mqtt-password"
    assert "\nedged:" in (root / "etc/passwd").read_text("utf-8")
    assert (root / "etc/systemd/system/multi-user.target.wants/edged.service").is_symlink()
    assert "s cret" not in (root / CONFIG).read_text("utf-8")


def test_a_second_installation_changes_and_prints_nothing(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(bundle), "--broker", "mqtt://edged:s@broker", "--node", "kitchen"]
    install(root, *options)
    before = contents(root)
    capsys.readouterr()
    assert install(root, *options) == 0
    assert install(root) == 0
    assert contents(root) == before
    lines = capsys.readouterr().out.splitlines()
    question = "edged ask --broker mqtt://USER:PASSWORD@broker:1883 --node kitchen"
    assert all(line.startswith(f"installed; try: {question} '") for line in lines)


@pytest.mark.parametrize("budget", ["500M", "801M", "1000000K", "1.3G"])
def test_a_repeated_installation_keeps_the_budget(root: Path, bundle: Path, budget: str) -> None:
    install(root, "--model", str(bundle), "--budget", budget)
    before = contents(root)
    install(root)
    assert contents(root) == before


def test_a_budget_written_by_0_2_0_is_not_made_smaller(root: Path, bundle: Path) -> None:
    install(root, "--model", str(bundle), "--budget", "500M")
    path = root / CONFIG
    old = path.read_text("utf-8").partition("\n")[2].replace("437.5M", "437M")
    path.write_text(settings._HEADER_LINE.format(settings._sum(old)) + old, "utf-8")
    install(root)
    assert "MemoryMax=500M" in (root / DROP_IN).read_text("utf-8")
    assert configuration(root).budget.memory_bytes == 437.5 * 1024**2


def test_a_broker_given_with_a_user_has_each_account_speak_for_itself(
    root: Path, bundle: Path
) -> None:
    install(root, "--model", str(bundle), "--broker", "mqtt://broker")
    assert configuration(root).security.identity == "optional"
    install(root, "--broker", "mqtt://edged:s@broker")
    assert configuration(root).security.identity == "required"
    install(root, "--budget", "1G")
    assert configuration(root).security.identity == "required"


def test_a_configuration_of_0_1_0_keeps_the_topics_of_its_clients(root: Path, bundle: Path) -> None:
    install(root, "--model", str(bundle), "--broker", "mqtt://edged:s@broker")
    path = root / CONFIG
    body = path.read_text("utf-8").partition("\n")[2]
    old = body.replace("security:\n  identity: required\n", "")
    assert old != body
    path.write_text(settings._HEADER_LINE.format(settings._sum(old)) + old, "utf-8")
    install(root, "--budget", "1G")
    assert configuration(root).security.identity == "optional"


def test_a_later_option_changes_only_its_setting(root: Path, bundle: Path) -> None:
    install(root, "--model", str(bundle), "--broker", "mqtt://edged:s@broker", "--node", "kitchen")
    before = configuration(root)
    install(root, "--broker", "mqtt://other:1884")
    install(root, "--budget", "1G")
    config = configuration(root)
    assert (config.broker.host, config.broker.port) == ("other", 1884)
    assert config.broker.username == "edged"
    assert config.broker.password_file == before.broker.password_file
    assert (config.node, config.model) == (before.node, before.model)
    assert "MemoryMax=1024M" in (root / DROP_IN).read_text("utf-8")


def test_a_dry_run_prints_all_changes_and_makes_none(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(root)
    broker = "mqtt://edged:s3cret@broker"
    assert install(root, "--model", str(bundle), "--broker", broker, "--dry-run") == 0
    said = capsys.readouterr().out
    assert contents(root) == before
    assert all(line.startswith("would ") for line in said.splitlines())
    for part in ("edged.service", "the user edged", "copy the model tiny", "edged.yaml", "boot"):
        assert part in said
    assert "s3cret" not in said


def test_an_edited_configuration_is_kept_and_options_are_refused(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(root, "--model", str(bundle))
    with (root / CONFIG).open("a", encoding="utf-8") as file:
        file.write("queue: {size: 3}\n")
    edited = (root / CONFIG).read_bytes()
    assert install(root) == 0
    assert install(root, "--budget", "1G") == ExitCode.CANNOT_CREATE
    assert "edited by hand" in capsys.readouterr().err
    assert (root / CONFIG).read_bytes() == edited


def test_a_damaged_copy_of_the_model_is_replaced(root: Path, bundle: Path) -> None:
    install(root, "--model", str(bundle))
    copy = root / "var/lib/edged-models/tiny/tokenizer.json"
    original = copy.read_bytes()
    copy.write_bytes(original[:-1])
    install(root, "--model", str(bundle))
    assert copy.read_bytes() == original


def test_tls_installs_the_ca_file_and_a_public_broker_is_allowed(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("a certificate\n", "utf-8")
    options = ["--broker", "mqtts://8.8.8.8", "--ca-file", str(authority)]
    install(root, "--model", str(bundle), *options)
    config = configuration(root)
    assert (config.broker.tls, config.broker.port) == (True, 8883)
    assert (root / str(config.broker.ca_file).lstrip("/")).read_text("utf-8") == "a certificate\n"
    assert "IPAddressAllow=8.8.8.8" in (root / DROP_IN).read_text("utf-8")


def test_two_instances_share_only_program_and_user(root: Path, bundle: Path) -> None:
    for name in ("small", "large"):
        install(root, "--model", str(bundle), "--node", name, "--instance", name)
        config = configuration(root, name)
        assert config.node == name
        assert str(config.state.file) == f"/run/edged-{name}/state.json"
    assert (root / "etc/systemd/system/edged@.service").exists()
    assert main(["uninstall", "--root", str(root), "--instance", "small"]) == 0
    left = contents(root)
    assert not [path for path in left if "small" in path]
    assert {"etc/edged/large.yaml", "opt/edged/bin/edged"} <= left.keys()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--budget", "lots"], "--budget: expected"),
        (["--broker", "http://x"], "--broker: it must start with mqtt://"),
        (["--password-file", "/nowhere"], "--password-file: give the user"),
        (["--broker", "mqtt://x", "--password-file", "/nowhere"], "--password-file: give the user"),
        (["--broker", "mqtt://u@x", "--password-file", "/nowhere"], "--password-file: cannot be"),
        (["--ca-file", "/nowhere"], "--ca-file: cannot be read"),
        (["--prefix", "here"], "--prefix: must be an absolute path"),
        ([], "--model: name the folder"),
        (["--model", "/nowhere"], "/nowhere: No such file"),
        (["--instance", "A b"], "--instance: expected"),
        (["--instance", "edged"], "--instance: expected"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_changed(
    root: Path, options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(root)
    assert install(root, *options) != 0
    assert complaint in capsys.readouterr().err
    assert contents(root) == before


def test_a_model_that_does_not_fit_the_budget_is_refused_before_any_change(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(root)
    assert install(root, "--model", str(bundle), "--budget", "100M") == ExitCode.USAGE
    assert "--budget: 100M is too small: budget.memory" in capsys.readouterr().err
    assert contents(root) == before


def test_a_model_that_the_keys_of_the_device_refuse_is_refused_before_any_change(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(root, "--model", str(bundle))
    keys = root / "etc/edged/keys"
    keys.mkdir()
    (keys / "maker.pem").write_bytes(public_pem(private_key()))
    before = contents(root)
    other = bundle.rename(bundle.with_name("other"))
    assert install(root, "--model", str(other)) == ExitCode.CONFIG
    assert f"{other}: not signed: it has no model.sig" in capsys.readouterr().err
    assert contents(root) == before
    assert install(root, "--budget", "1G") == 0


@pytest.mark.parametrize("name", ["store", "store-kitchen", "drop"])
def test_a_model_never_takes_the_place_of_those_that_updates_keep(
    root: Path, bundle: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = root / "var/lib/edged-models" / name / "model" / "current"
    kept.parent.mkdir(parents=True)
    kept.touch()
    model = bundle.rename(bundle.with_name(name))
    assert install(root, "--model", str(model)) == ExitCode.USAGE
    said = f"--model: /var/lib/edged-models/{name} is for updates; rename the bundle's folder"
    assert said in capsys.readouterr().err
    assert kept.exists()
    assert install(root, "--model", str(model.rename(model.with_name("stored")))) == 0


def test_a_missing_program_or_another_version_is_refused_before_any_change(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (info,) = root.glob("opt/edged/lib/*/site-packages/*.dist-info")
    info.rename(info.with_name("edged-0.0.1.dist-info"))
    before = contents(root)
    assert install(root, "--model", str(bundle)) == ExitCode.CANNOT_CREATE
    assert install(root, "--model", str(bundle), "--prefix", "/no") == ExitCode.CANNOT_CREATE
    assert contents(root) == before
    said = capsys.readouterr().err
    assert f"{root}/opt/edged: no edged {edged.__version__} there" in said
    assert f"`python3 -m venv {root}/no`" in said


def test_files_of_the_debian_package_are_not_installed_again(root: Path, bundle: Path) -> None:
    install(root, "--model", str(bundle), "--prefix", "/usr/lib/edged")
    assert not (root / "etc/systemd/system/edged.service").exists()
    assert (root / DROP_IN).exists()


def test_an_uninstallation_leaves_nothing(root: Path, bundle: Path) -> None:
    before = {"etc/group", "etc/passwd"}
    install(root, "--model", str(bundle), "--broker", "mqtt://edged:s@broker")
    install(root, "--model", str(bundle), "--instance", "second")
    assert main(["uninstall", "--root", str(root)]) == 0
    left = contents(root)
    # Copies that the account tools keep of their files.
    assert {path for path in left if not path.endswith("-")} - before <= {
        "etc/shadow",
        "etc/gshadow",
        "etc/.pwd.lock",
    }
    assert "edged:" not in (root / "etc/passwd").read_text("utf-8")
    assert not [path for path in root.rglob("*") if "edged" in path.name]


def test_what_somebody_keeps_beside_the_configuration_does_not_stop_an_uninstallation(
    root: Path, bundle: Path
) -> None:
    install(root, "--model", str(bundle))
    for kept in ("etc/edged/edged.old.yaml", "etc/systemd/system/edged@A.service.d/mine.conf"):
        (root / kept).parent.mkdir(exist_ok=True)
        (root / kept).touch()
    assert main(["uninstall", "--root", str(root)]) == 0
    assert not (root / "etc/edged").exists()
    assert not (root / "opt/edged").exists()


def test_a_user_and_folders_that_were_not_installed_stay(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = "edged:x:4242:4242:Ed Gedney:/home/edged:/bin/sh\n"
    with (root / "etc/passwd").open("a", encoding="utf-8") as file:
        file.write(mine)
    for name in ("edged", "edged-backup"):
        (root / "var/lib" / name).mkdir(parents=True)
    install(root, "--model", str(bundle))
    assert main(["uninstall", "--root", str(root)]) == 0
    assert mine in (root / "etc/passwd").read_text("utf-8")
    left = {path.name for path in (root / "var/lib").iterdir()}
    assert left == {"edged", "edged-backup"}
    assert f"{root}/var/lib/edged stays: it is not the service's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "rules"),
    [
        ("mqtt://localhost", ["", "127.0.0.1 ::1"]),
        ("mqtt://10.0.0.2", ["", "10.0.0.2"]),
        ("mqtts://[2001:db8::2]", ["", "2001:db8::2"]),
        ("mqtt://broker.local", []),
    ],
)
def test_the_address_rules_of_the_unit_follow_the_broker(
    root: Path, bundle: Path, url: str, rules: list[str]
) -> None:
    install(root, "--model", str(bundle), "--broker", url)
    drop_in = (root / DROP_IN).read_text("utf-8")
    assert re.findall("(?m)^IPAddressAllow=(.*)$", drop_in) == rules
    # The resolver sends anything anywhere: it is there for a name only.
    assert ("InaccessiblePaths=-/run/systemd/resolve" in drop_in) == bool(rules)


def test_the_unit_alone_can_be_brought_up_to_date(root: Path, bundle: Path) -> None:
    install(root, "--model", str(bundle), "--broker", "mqtt://10.0.0.2")
    drop_in, config = root / DROP_IN, root / CONFIG
    config.write_text(config.read_text("utf-8").replace("10.0.0.2", "10.0.0.3"), "utf-8")
    expected = drop_in.read_text("utf-8").replace("10.0.0.2", "10.0.0.3")
    before = contents(root)
    assert install(root, "--unit-only") == 0
    assert drop_in.read_text("utf-8") == expected
    assert contents(root) | {DROP_IN: before[DROP_IN]} == before


def test_a_dry_run_removes_nothing_and_a_second_uninstallation_finds_nothing(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(root, "--model", str(bundle))
    before = contents(root)
    capsys.readouterr()
    assert main(["uninstall", "--root", str(root), "--dry-run"]) == 0
    planned = capsys.readouterr().out.splitlines()
    assert contents(root) == before
    assert main(["uninstall", "--root", str(root)]) == 0
    done = capsys.readouterr().out.splitlines()
    assert [f"would {line}" for line in done] == planned
    assert main(["uninstall", "--root", str(root)]) == 0
    assert capsys.readouterr().out == "edged is not installed here\n"


def test_a_foreign_command_is_kept(root: Path, bundle: Path) -> None:
    command = root / "usr/local/bin/edged"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\necho mine\n", "utf-8")
    install(root, "--model", str(bundle))
    assert "mine" in command.read_text("utf-8")
    assert main(["uninstall", "--root", str(root)]) == 0
    assert command.exists()


def test_the_command_on_the_path_runs_the_program_of_the_prefix(root: Path, bundle: Path) -> None:
    install(root, "--model", str(bundle))
    command = root / "usr/local/bin/edged"
    assert command.stat().st_mode & 0o777 == 0o755
    assert 'exec /opt/edged/bin/edged "$@"' in command.read_text("utf-8")


def test_the_running_system_requires_root(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["install", "--model", str(bundle)]) == ExitCode.CANNOT_CREATE
    assert main(["uninstall"]) == ExitCode.CANNOT_CREATE
    assert "root is required" in capsys.readouterr().err


def test_a_credential_is_named_after_the_unit() -> None:
    layout = Layout(instance="kitchen")
    assert str(layout.credential) == "/run/credentials/edged@kitchen.service/mqtt-password"
    with pytest.raises(InstallError):
        Layout(instance="../x")
