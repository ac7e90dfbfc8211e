"""Whose models are used: those of the keys that are installed, and what was pinned."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.bundle.folder import open_bundle, write_manifest
from edged.bundle.signature import SIGNATURE, SignatureError
from edged.bundle.trust import MAX_KEYS, PINNED, REVOKED, content_id, list_text, read_trust
from edged.errors import BundleUnavailableError
from tests.signing import P384, PrivateKey, contents, private_key, public_key, public_pem, sign
from tests.unit.test_bundle import GRAPH
from tests.unit.test_manifest import make_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle without a signature."""
    made = tmp_path / "toy"
    made.mkdir()
    (made / "model.onnx").write_bytes(GRAPH)
    (made / "model.onnx.data").write_bytes(bytes(range(256)))
    (made / "tokenizer.json").write_bytes(b"{}")
    write_manifest(made, make_manifest())
    return made


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir()
    return made


def install(keys: Path, name: str, key: PrivateKey | None = None) -> PrivateKey:
    key = key or private_key()
    (keys / f"{name}.pem").write_bytes(public_pem(key))
    return key


def opens(folder: Path, keys: Path, is_required: bool | None = None) -> None:
    trust = read_trust(keys, is_required=is_required)
    bundle = open_bundle(folder, trust=trust)
    assert open_bundle(folder, verify=False, trust=trust) == bundle


def refused(folder: Path, keys: Path, is_required: bool | None = None) -> str:
    """Return why it is not used, whether its bytes are looked at again or not."""
    found = []
    for verify in (True, False):
        with pytest.raises(SignatureError) as caught:
            open_bundle(folder, verify=verify, trust=read_trust(keys, is_required=is_required))
        found.append(str(caught.value))
    assert found[0] == found[1]
    assert found[0].startswith(f"{folder}: ")
    return found[0]


def test_without_a_key_no_signature_is_needed(folder: Path, keys: Path) -> None:
    opens(folder, keys)
    opens(folder, keys / "nowhere")


def test_with_the_first_key_what_is_not_signed_is_refused_and_what_is_is_used(
    folder: Path, keys: Path
) -> None:
    key = install(keys, "maker")
    said = refused(folder, keys)
    assert "not signed: it has no model.sig" in said
    assert f"sign it with a key of {keys} (maker), or add the signer's with `edged key add`" in said
    sign(folder, key)
    opens(folder, keys)


def test_the_setting_wins_over_what_there_is(folder: Path, keys: Path) -> None:
    assert "(none is installed)" in refused(folder, keys, is_required=True)
    assert "(none is installed)" in refused(folder, keys / "nowhere", is_required=True)
    install(keys, "maker")
    opens(folder, keys, is_required=False)


def test_each_of_several_keys_counts(folder: Path, keys: Path) -> None:
    """So a new key can be installed before the old one is revoked."""
    old, new = install(keys, "old"), install(keys, "new", private_key(P384))
    for key in (old, new):
        sign(folder, key)
        opens(folder, keys)


def test_an_unknown_key_is_named(folder: Path, keys: Path) -> None:
    install(keys, "maker")
    stranger = private_key()
    sign(folder, stranger)
    said = refused(folder, keys)
    assert f"signed by the unknown key {public_key(stranger).key_id[:12]}" in said


def test_who_names_a_known_key_and_has_it_not_is_refused(folder: Path, keys: Path) -> None:
    key = install(keys, "maker")
    sign(folder, private_key())
    signature = folder / SIGNATURE
    text = signature.read_text()
    hint = text.split('"hint": "')[1][:64]
    signature.write_text(text.replace(hint, public_key(key).key_id))
    assert "model.sig: not made by the key maker" in refused(folder, keys)


def test_a_revoked_key_counts_no_longer_and_signatures_stay_required(
    folder: Path, keys: Path
) -> None:
    key = install(keys, "maker")
    sign(folder, key)
    (keys / REVOKED).write_text(list_text({public_key(key).key_id: "maker  (lost)"}))
    assert "which was revoked" in refused(folder, keys)
    (keys / "maker.pem").unlink()
    assert "which was revoked" in refused(folder, keys)


def test_a_key_that_is_damaged_vouches_for_nothing_and_the_others_do(
    folder: Path, keys: Path
) -> None:
    (keys / "bad.pem").write_text("no key")
    os.mkfifo(keys / "worse.pem")
    said = refused(folder, keys)
    assert "bad: not one public key in PEM" in said
    assert "worse.pem" in said
    sign(folder, install(keys, "good"))
    opens(folder, keys)


def test_what_was_pinned_is_used_until_a_byte_of_it_changes(folder: Path, keys: Path) -> None:
    install(keys, "maker")
    found = {n: hashlib.sha256(data).hexdigest() for n, data in contents(folder).items()}
    (keys / PINNED).write_text(f"# what was there\n\n{list_text({content_id(found): 'toy'})}")
    opens(folder, keys)
    (folder / SIGNATURE).write_text("nonsense")
    opens(folder, keys)
    (folder / "version.json").write_text('{"version": 1}')
    assert "not valid JSON" in refused(folder, keys)


@pytest.mark.parametrize(
    "name", ["manifest.json", "model.onnx.data", "version.json", "golden.json"]
)
def test_a_file_that_the_signature_leaves_out_is_not_used(
    folder: Path, keys: Path, name: str
) -> None:
    key = install(keys, "maker")
    sign(folder, key, (SIGNATURE, name))
    assert f"{name}: not signed: the signature leaves it out" in refused(folder, keys)


@pytest.mark.parametrize("name", [b"a\nb", b"a\x7fb", b"a\xffb"])
def test_a_name_that_would_read_as_others_is_refused(folder: Path, keys: Path, name: bytes) -> None:
    """With line breaks in names, two folders could have the hash of one."""
    key = install(keys, "maker")
    sign(folder, key)
    found = {n: hashlib.sha256(data).hexdigest() for n, data in contents(folder).items()}
    (keys / PINNED).write_text(list_text({content_id(found): "toy"}))
    trust = read_trust(keys)
    trust.check_read(folder, {})
    (folder / os.fsdecode(name)).write_text("")
    with pytest.raises(SignatureError, match=r"b': control characters in a name, or not UTF-8"):
        trust.check_read(folder, {})


def test_a_huge_file_beside_those_that_are_used_is_not_read(tmp_path: Path, keys: Path) -> None:
    key = install(keys, "maker")
    (keys / PINNED).write_text(list_text({"ab" * 32: "toy"}))
    folder = tmp_path / "lamp"
    folder.mkdir()
    (folder / "a").write_text("a")
    sign(folder, key)
    (folder / "b").touch()
    os.truncate(folder / "b", 1 << 40)
    for _ in ("pinned", "signed"):
        with pytest.raises(SignatureError, match=r"b: more than \d+ bytes beside what is used"):
            read_trust(keys).check_read(folder, {"a": b"a"})
        (keys / PINNED).unlink(missing_ok=True)


def test_a_bundle_that_was_made_anew_beside_an_old_signature_is_refused(
    folder: Path, keys: Path
) -> None:
    key = install(keys, "maker")
    sign(folder, key)
    (folder / "tokenizer.json").write_bytes(b"[]")
    write_manifest(folder, make_manifest())
    assert "manifest.json: not what was signed" in refused(folder, keys)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (REVOKED, b"maker\n", "line 1 does not begin with a hash"),
        (PINNED, b"# a\n" + b"ab" * 31 + b"\n", "line 2 does not begin with a hash"),
        (REVOKED, b"\xff", "not text in UTF-8"),
        (REVOKED, b" " * (1 << 19), "longer than"),
    ],
)
def test_a_damaged_list_lets_nothing_pass(
    keys: Path, name: str, content: bytes, problem: str
) -> None:
    install(keys, "maker")
    (keys / name).write_bytes(content)
    with pytest.raises(SignatureError, match=f"{name}: {problem}"):
        read_trust(keys)


def test_what_cannot_be_read_now_is_waited_for(keys: Path) -> None:
    (keys / REVOKED).mkdir()
    with pytest.raises(BundleUnavailableError, match=REVOKED):
        read_trust(keys)
    file = keys / "file"
    file.write_text("")
    with pytest.raises(BundleUnavailableError, match="Not a directory"):
        read_trust(file)


def test_more_keys_than_anybody_has_are_refused(keys: Path) -> None:
    for index in range(MAX_KEYS + 1):
        (keys / f"{index}.pem").write_text("")
    with pytest.raises(SignatureError, match="more than 64 keys"):
        read_trust(keys)


def test_a_disk_that_fails_is_no_fault_of_the_signature(
    folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(folder, install(keys, "maker"))
    trust = read_trust(keys)

    def fails(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.read", fails)
    with pytest.raises(BundleUnavailableError, match="Input/output error"):
        open_bundle(folder, verify=False, trust=trust)


def test_a_folder_of_which_files_were_read_is_checked_as_they_were(
    tmp_path: Path, keys: Path
) -> None:
    """Whatever a name leads to by then."""
    key = install(keys, "maker")
    folder = tmp_path / "lamp"
    folder.mkdir()
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    sign(folder, key)
    trust = read_trust(keys)
    trust.check_read(folder, {"a": b"a"})
    with pytest.raises(SignatureError, match="a: not what was signed"):
        trust.check_read(folder, {"a": b"other"})
    with pytest.raises(SignatureError, match="c: missing"):
        trust.check_read(folder, {"c": b"c"})
    with pytest.raises(BundleUnavailableError, match="No such file"):
        trust.check_read(tmp_path / "nowhere", {})
    read_trust(tmp_path / "no keys").check_read(tmp_path / "nowhere", {})


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("a")])
def test_what_is_no_plain_file_is_refused(
    tmp_path: Path, keys: Path, make: Callable[[Path], None]
) -> None:
    key = install(keys, "maker")
    (tmp_path / "a").write_text("a")
    folder = tmp_path / "lamp"
    folder.mkdir()
    (folder / "a").write_text("a")
    sign(folder, key)
    make(folder / "b")
    with pytest.raises(SignatureError, match="b: a link, or no regular file"):
        read_trust(keys).check_read(folder, {})


@pytest.mark.parametrize("pinned", [{}, {"0" * 64: "another folder"}])
def test_what_a_signature_leaves_out_counts_for_nothing_whatever_else_is_pinned(
    tmp_path: Path, keys: Path, pinned: dict[str, str]
) -> None:
    """``model_signing`` leaves out ``.git``, where a local clone has hard links."""
    key = install(keys, "maker")
    (keys / PINNED).write_text(list_text(pinned))
    folder = tmp_path / "lamp"
    (folder / ".git").mkdir(parents=True)
    (folder / "a").write_text("a")
    sign(folder, key, ignored=(SIGNATURE, ".git"))
    (folder / ".git" / "object").write_text("o")
    (tmp_path / "object").hardlink_to(folder / ".git" / "object")
    read_trust(keys).check_read(folder, {})
    (folder / SIGNATURE).unlink()
    problem = "second hard link" if pinned else "not signed"
    with pytest.raises(SignatureError, match=problem):
        read_trust(keys).check_read(folder, {})
