"""``edged key``: keys are installed, listed and revoked, and what serves at the time serves on."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.bundle.disk import Disk
from edged.bundle.folder import open_bundle
from edged.bundle.store import Store
from edged.bundle.trust import MAX_KEYS, PINNED, REVOKED, list_text, read_trust
from edged.cli import main
from edged.errors import BundleError, ExitCode
from tests.signing import P384, PrivateKey, private_key, private_pem, public_key, public_pem, sign
from tests.unit.test_trust import folder, keys

__all__ = ["folder", "keys"]  # the fixtures

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, folder: Path, keys: Path) -> Run:
    """Run an action on a device that serves one bundle."""
    (tmp_path / "edged.yaml").write_text(f"model: {{path: {folder}}}\n")
    options = ["--keys", str(keys), "--config", str(tmp_path / "edged.yaml")]
    return lambda *words: main(["key", *map(str, words), *options])


def pem_file(tmp_path: Path, name: str, key: PrivateKey) -> Path:
    path = tmp_path / f"{name}.pem"
    path.write_bytes(public_pem(key))
    return path


def test_the_first_key_pins_what_is_served_and_the_second_does_not(
    tmp_path: Path, folder: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list") == 0
    assert "models need no signature" in capsys.readouterr().out
    assert run("add", pem_file(tmp_path, "maker", private_key())) == 0
    shown = capsys.readouterr().out
    assert f"{folder}: pinned as it is now" in shown
    assert "maker: installed" in shown
    assert "systemctl reload edged" in shown
    open_bundle(folder, trust=read_trust(keys))
    before = (keys / PINNED).read_bytes()
    (folder / "version.json").write_text('{"version": 1}')
    assert run("add", pem_file(tmp_path, "second", private_key(P384))) == 0
    assert (keys / PINNED).read_bytes() == before
    with pytest.raises(BundleError, match="not signed"):
        open_bundle(folder, trust=read_trust(keys))
    assert run("pin", folder) == 0
    open_bundle(folder, trust=read_trust(keys))
    capsys.readouterr()
    assert run("list") == 0
    shown = capsys.readouterr().out
    assert "maker  " in shown
    assert "second  " in shown
    assert shown.count("pinned  ") == 1


def served_store(tmp_path: Path, folder: Path) -> Store:
    """Have a store served with two bundles, the second of which is on trial."""
    made = Store(tmp_path / "store" / "model", Disk())
    for number in (1, 2):
        target = made.folder(f"toy-{number}")
        shutil.copytree(folder, target)
        (target / "version.json").write_text(f'{{"version": {number}}}')
        made.begin(target.name)
    (tmp_path / "edged.yaml").write_text(f"model: {{path: {made.current}}}\n")
    return made


@pytest.mark.parametrize("is_accepted", [False, True])
def test_the_first_key_pins_what_a_store_can_go_back_to(
    tmp_path: Path, folder: Path, keys: Path, run: Run, *, is_accepted: bool
) -> None:
    store = served_store(tmp_path, folder)
    if is_accepted:
        store.commit("toy", 2)
    assert run("add", pem_file(tmp_path, "maker", private_key())) == 0
    open_bundle(store.current, trust=read_trust(keys))
    store.roll_back()
    assert store.state().current == "toy-1"
    open_bundle(store.current, trust=read_trust(keys))


def test_a_store_that_is_damaged_is_named_and_does_not_stop_the_key(
    tmp_path: Path, folder: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    store = served_store(tmp_path, folder)
    (store.root / "trial.json").write_text("[]")
    assert run("add", pem_file(tmp_path, "maker", private_key())) == 0
    assert f"{store.root}: not known what can be gone back to" in capsys.readouterr().out
    open_bundle(store.current, trust=read_trust(keys))


def test_what_could_be_gone_back_to_is_named_when_its_key_is_revoked(
    tmp_path: Path, folder: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    store = served_store(tmp_path, folder)
    old, new = private_key(), private_key()
    sign(store.folder("toy-1"), old)
    sign(store.folder("toy-2"), new)
    for name, key in (("old", old), ("new", new)):
        assert run("add", pem_file(tmp_path, name, key)) == 0
    (keys / PINNED).unlink()
    capsys.readouterr()
    assert run("revoke", "old") == 0
    shown = capsys.readouterr().out
    assert f"not used from the next start on: {store.folder('toy-1')}: signed by the key" in shown
    assert shown.count("not used") == 1


def test_a_folder_that_is_pinned_anew_takes_the_place_of_what_it_was(
    tmp_path: Path, keys: Path, run: Run
) -> None:
    """And takes nothing from another one that had the same content, or the same link."""
    first, twin, link = tmp_path / "lamp", tmp_path / "twin", tmp_path / "link"
    for made in (first, twin):
        made.mkdir()
        (made / "specialist.json").write_text("1")
    for pinned in (first, twin, twin, first):
        assert run("pin", pinned) == 0
    assert list(read_trust(keys).pinned.values()) == [f"{first}, {twin}"]
    (first / "specialist.json").write_text("2")
    assert run("pin", first) == 0
    (first / "specialist.json").write_text("3")
    assert run("pin", first) == 0
    assert list(read_trust(keys).pinned.values()) == [f"{first}, {twin}", f"{first}"]
    trust = read_trust(keys, is_required=True)
    trust.check_read(first, {})
    trust.check_read(twin, {})
    link.symlink_to(first)
    assert run("pin", link) == 0
    link.unlink()
    link.symlink_to(twin)
    assert run("pin", link) == 0
    assert read_trust(keys).pinned == trust.pinned


def test_no_list_grows_longer_than_what_is_read(
    tmp_path: Path, folder: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = (hashlib.sha256(bytes([a, b])).hexdigest() for a in range(16) for b in range(256))
    full = list_text(dict.fromkeys(digests, ""))[: 1 << 18].rpartition("\n")[0] + "\n"
    for name, words in ((PINNED, ("pin", folder)), (REVOKED, ("revoke", "ab" * 32))):
        (keys / name).write_text(full)
        assert run(*words) == ExitCode.USAGE
        said = f"{keys / name}: would be longer than the 262144 bytes that are read; remove the"
        assert said in capsys.readouterr().err
        assert (keys / name).read_text() == full
    read_trust(keys)


def test_no_more_keys_are_installed_than_are_read(
    tmp_path: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    pem = pem_file(tmp_path, "last", private_key())
    for index in range(MAX_KEYS - 1):
        (keys / f"{index}.pem").write_text("")
    assert run("add", pem) == 0
    assert run("add", pem_file(tmp_path, "more", private_key())) == ExitCode.USAGE
    assert f"{keys}: has 64 keys, and no more are read; remove" in capsys.readouterr().err
    assert run("list") == 0
    assert run("revoke", "last") == 0


@pytest.mark.parametrize("name", [b"x\xff", b"a\nb"])
def test_a_file_whose_name_is_no_text_is_named_and_nothing_is_pinned(
    tmp_path: Path, keys: Path, run: Run, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lamp").mkdir()
    (tmp_path / "lamp" / os.fsdecode(name)).write_text("")
    assert run("pin", tmp_path / "lamp") == ExitCode.CONFIG
    assert "control characters in a name, or not UTF-8" in capsys.readouterr().err
    assert not read_trust(keys).pinned


def test_the_key_is_there_only_after_what_is_served_was_pinned(
    tmp_path: Path, folder: Path, keys: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after each step, the bundle that was served still is."""
    done: list[Path] = []

    def replace_file(_: object, path: Path, content: bytes) -> None:
        done.append(path)
        if len(done) > most:
            raise KeyboardInterrupt
        path.write_bytes(content)

    monkeypatch.setattr("edged.commands.keys.replace_file", replace_file)
    pem = pem_file(tmp_path, "maker", private_key())
    for steps in (0, 1):
        most = steps
        done.clear()
        assert run("add", pem) == 130
        open_bundle(folder, trust=read_trust(keys))
    assert [path.name for path in done] == [PINNED, "maker.pem"]


def test_what_cannot_serve_is_not_pinned_and_does_not_stop_the_key(
    tmp_path: Path, folder: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tokenizer.json").write_bytes(b"[]")
    (tmp_path / "edged.yaml").write_text(
        f"model: {{path: {folder}}}\nspecialists: [{tmp_path / 'gone'}]\n"
    )
    assert run("add", pem_file(tmp_path, "maker", private_key())) == 0
    shown = capsys.readouterr().out
    assert "does not serve, so it is not pinned: tokenizer.json" in shown
    assert f"{tmp_path / 'gone'}: cannot be read" in shown
    assert read_trust(keys).keys


def test_a_specialist_that_was_taught_here_is_pinned_with_all_its_files(
    tmp_path: Path, folder: Path, keys: Path, run: Run
) -> None:
    lamp = tmp_path / "lamp"
    lamp.mkdir()
    (lamp / "specialist.json").write_text("{}")
    (tmp_path / "edged.yaml").write_text(f"model: {{path: {folder}}}\nspecialists: [{lamp}]\n")
    assert run("add", pem_file(tmp_path, "maker", private_key())) == 0
    read_trust(keys).check_read(lamp, {"specialist.json": b"{}"})
    with pytest.raises(BundleError, match="not signed"):
        read_trust(keys).check_read(lamp, {"specialist.json": b"[]"})


def test_a_revoked_key_is_never_used_again_and_what_it_takes_along_is_named(
    tmp_path: Path, folder: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = private_key(), private_key()
    assert run("add", pem_file(tmp_path, "old", old)) == 0
    assert run("add", pem_file(tmp_path, "new", new)) == 0
    (keys / PINNED).unlink()
    sign(folder, old)
    capsys.readouterr()
    assert run("revoke", "old") == 0
    shown = capsys.readouterr().out
    assert "old: revoked" in shown
    assert f"not used from the next start on: {folder}: signed by the key" in shown
    sign(folder, new)
    open_bundle(folder, trust=read_trust(keys))
    assert run("revoke", "old") == 0
    assert "was revoked already" in capsys.readouterr().out
    assert run("add", tmp_path / "old.pem", "--name", "again") == ExitCode.USAGE
    assert "was revoked; to take that back, edit" in capsys.readouterr().err
    assert run("list") == 0
    assert f"old  {public_key(old).key_id}  revoked" in capsys.readouterr().out


def test_the_service_can_read_the_keys_whatever_the_umask_is(tmp_path: Path) -> None:
    keys, config = tmp_path / "etc" / "edged" / "keys", tmp_path / "edged.yaml"
    config.write_text(f"model: {{path: {tmp_path}/gone}}\n")
    maker = pem_file(tmp_path, "maker", private_key())
    umask = os.umask(0o077)
    try:
        words = ["key", "add", str(maker), "--keys", str(keys), "--config", str(config)]
        assert main(words) == 0
    finally:
        os.umask(umask)
    folders = (keys.parent.parent, keys.parent, keys)
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o755] * 3
    assert (keys / "maker.pem").stat().st_mode & 0o777 == 0o644


def test_a_key_is_revoked_whatever_a_configuration_says(
    tmp_path: Path, folder: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    key = private_key()
    assert run("add", pem_file(tmp_path, "old", key)) == 0
    (keys / PINNED).unlink()
    sign(folder, key)
    (tmp_path / "broken.yaml").write_text("model: [")
    capsys.readouterr()
    assert run("revoke", "old", "--config", tmp_path / "broken.yaml") == 0
    shown = capsys.readouterr().out
    assert f"not known what is used by it: {tmp_path}/broken.yaml: not YAML" in shown
    assert f"not used from the next start on: {folder}: signed by the key" in shown


def test_a_key_that_is_not_here_can_be_revoked_by_its_digits(
    keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("revoke", "ab" * 32) == 0
    assert list(read_trust(keys).revoked) == ["ab" * 32]
    assert run("revoke", "maker") == ExitCode.USAGE
    assert "maker: no such key; there is none" in capsys.readouterr().err


def test_what_is_no_key_changes_nothing_and_is_named(
    tmp_path: Path, keys: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret.pem"
    secret.write_bytes(private_pem(private_key()))
    assert run("add", secret) == ExitCode.CONFIG
    assert "a private key, which belongs on no device" in capsys.readouterr().err
    assert run("add", tmp_path / "gone.pem") == ExitCode.USAGE
    assert "gone.pem: cannot be read: No such file" in capsys.readouterr().err
    good = pem_file(tmp_path, "maker", private_key())
    assert run("add", good, "--name", "../x") == ExitCode.USAGE
    assert "--name: expected" in capsys.readouterr().err
    assert not read_trust(keys).is_required
    assert run("add", good) == 0
    assert run("add", good, "--name", "other") == 0
    assert "maker is installed already" in capsys.readouterr().out
    other = pem_file(tmp_path, "other", private_key())
    assert run("add", other, "--name", "maker") == ExitCode.USAGE
    assert "another key of this name" in capsys.readouterr().err
    (keys / "bad.pem").write_text("bad")
    assert run("list") == 0
    assert "not usable: bad: not one public key" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    good = pem_file(tmp_path, "maker", private_key())
    words = ["key", "add", str(good), "--keys", str(tmp_path / "file"), "--config", str(good)]
    assert main(words) == ExitCode.CANNOT_CREATE
    assert "file: cannot be changed: File exists" in capsys.readouterr().err
