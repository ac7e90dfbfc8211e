"""What the format's own tool signs is what a device accepts, and the other way round."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edged.bundle.signature import SIGNATURE, SignatureError
from edged.bundle.version import VERSION, version_bytes
from edged.cli import main
from edged.errors import ExitCode
from tests.requirements import require
from tests.signing import P256, P384, private_key, private_pem, public_pem, sign
from tests.unit.test_signed_folder import check

CURVES = pytest.mark.parametrize("curve", [P256, P384])


@pytest.fixture(scope="module", autouse=True)
def needs_the_tool() -> None:
    is_there = importlib.util.find_spec("model_signing") is not None
    require(is_there, "model-signing is not installed; it comes with the extra build")


def tool(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=[P256, P384], ids=lambda curve: curve.name)
def signed_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ec.EllipticCurvePrivateKey]:
    """A folder that the tool signed, and the key."""
    parent = tmp_path_factory.mktemp("signed")
    key = private_key(request.param)
    (parent / "key.pem").write_bytes(private_pem(key))
    folder = parent / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "part" / "weights").write_bytes(bytes(range(64)))
    done = tool("sign", "key", folder, "--private_key", parent / "key.pem", "--signature",
                folder / SIGNATURE)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, key


@pytest.fixture
def pair(
    signed_once: tuple[Path, ec.EllipticCurvePrivateKey], tmp_path: Path
) -> tuple[Path, ec.EllipticCurvePrivateKey]:
    folder, key = signed_once
    return Path(shutil.copytree(folder, tmp_path / "model")), key


def test_what_the_tool_signs_is_accepted(pair: tuple[Path, ec.EllipticCurvePrivateKey]) -> None:
    check(*pair)


def test_another_key_is_refused(pair: tuple[Path, ec.EllipticCurvePrivateKey]) -> None:
    folder, key = pair
    with pytest.raises(SignatureError, match="not made by this key"):
        check(folder, private_key(key.curve))


@pytest.mark.parametrize("name", ["manifest.json", "part/weights"])
def test_each_byte_of_a_file_counts(
    pair: tuple[Path, ec.EllipticCurvePrivateKey], name: str
) -> None:
    folder, key = pair
    good = (folder / name).read_bytes()
    for place in range(len(good)):
        (folder / name).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(SignatureError, match=f"{name}: not what was signed"):
            check(folder, key)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda f: (f / "more").write_text(""),
        lambda f: (f / "part" / ".more").write_text(""),
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "manifest.json").rename(f / "part" / "manifest.json"),
        lambda f: (f / SIGNATURE).unlink(),
        lambda f: (f / SIGNATURE).write_bytes((f / SIGNATURE).read_bytes()[:-2]),
    ],
)
def test_a_folder_that_was_changed_is_refused(
    pair: tuple[Path, ec.EllipticCurvePrivateKey], tamper: Callable[[Path], object]
) -> None:
    folder, key = pair
    tamper(folder)
    with pytest.raises(SignatureError):
        check(folder, key)


def test_a_change_of_any_byte_of_the_signature_is_refused(
    pair: tuple[Path, ec.EllipticCurvePrivateKey],
) -> None:
    folder, key = pair
    good = (folder / SIGNATURE).read_bytes()
    for place in range(len(good)):
        bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        (folder / SIGNATURE).write_bytes(bad)
        with pytest.raises(SignatureError):
            check(folder, key)


def test_what_the_tool_was_told_to_ignore_may_change(tmp_path: Path) -> None:
    key = private_key()
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    folder = tmp_path / "model"
    (folder / ".git").mkdir(parents=True)
    for name in ("a", "notes", ".git/config", ".gitignore"):
        (folder / name).write_text(name)
    tool("sign", "key", folder, "--private_key", tmp_path / "key.pem", "--signature",
         folder / SIGNATURE, "--ignore-paths", folder / "notes")  # fmt: skip
    for name in ("notes", ".git/config", ".gitignore"):
        (folder / name).write_text("changed")
    check(folder, key)
    (folder / "a").write_text("changed")
    with pytest.raises(SignatureError, match="a: not what was signed"):
        check(folder, key)


@CURVES
def test_the_tool_accepts_what_the_tests_sign(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    """So the many small folders of the other tests are what the format means."""
    key = private_key(curve)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("a")
    sign(folder, key)
    (tmp_path / "public.pem").write_bytes(public_pem(key))
    words = ("verify", "key", folder, "--public_key", tmp_path / "public.pem")
    done = tool(*words, "--signature", folder / SIGNATURE)
    assert done.returncode == 0, done.stderr
    (folder / "a").write_text("b")
    assert tool(*words, "--signature", folder / SIGNATURE).returncode != 0


@CURVES
def test_edged_sign_makes_what_device_and_tool_accept(
    tmp_path: Path, curve: ec.EllipticCurve, capsys: pytest.CaptureFixture[str]
) -> None:
    key = private_key(curve)
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    (tmp_path / "public.pem").write_bytes(public_pem(key))
    folder = tmp_path / "lamp"
    folder.mkdir()
    (folder / "specialist.json").write_text("{}")
    for version in (7, 8):  # the second time it is there already
        words = ["sign", str(folder), "--key", str(tmp_path / "key.pem"), "--version"]
        assert main([*words, str(version)]) == 0
    assert "model.sig: version 8, 2 files" in capsys.readouterr().out
    assert (folder / VERSION).read_bytes() == version_bytes(8)
    check(folder, key)
    words = ["verify", "key", str(folder), "--public_key", str(tmp_path / "public.pem")]
    assert tool(*words, "--signature", folder / SIGNATURE).returncode == 0


def test_edged_sign_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(private_pem(private_key()))
    folder = tmp_path / "lamp"
    folder.mkdir()
    words = ["sign", str(folder), "--key", str(key)]
    assert main(words) == ExitCode.USAGE
    assert "neither a bundle of" in capsys.readouterr().err
    (folder / "writer.json").write_text("{}")
    assert main([*words, "--version", "0"]) == ExitCode.USAGE
    assert "--version: must be from 1" in capsys.readouterr().err
    key.write_text("no key")
    assert main(words) == ExitCode.FAILURE
    assert f"not signed with {key}" in capsys.readouterr().err
    key.unlink()
    assert main(words) == ExitCode.FAILURE
    assert f"{key}: No such file" in capsys.readouterr().err
    key.write_bytes(private_pem(private_key()))
    (folder / "link").symlink_to("writer.json")
    assert main(words) == ExitCode.FAILURE
    assert "not signed" in capsys.readouterr().err
