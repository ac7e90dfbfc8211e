"""A signed folder: every file of it counts, and whatever was done to one is found."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edged.bundle.public_key import read_public_key
from edged.bundle.signature import (
    SIGNATURE,
    SignatureError,
    compare_files,
    read_signature,
)
from edged.bundle.signed_folder import hash_folder, signature_in
from edged.bundle.version import VERSION, version_bytes, version_in
from edged.errors import BundleError
from tests.signing import P256, P384, private_key, private_pem, public_key, public_pem, sign, signed

FILES = ("manifest.json", "weights/part-1", "weights/part-2", ".hidden")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "weights").mkdir(parents=True)
    for name in FILES:
        (made / name).write_bytes(name.encode() * 10)
    return made


def check(folder: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Do all that a device does with a folder."""
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        data = signature_in(folder_fd)
        if data is None:
            raise SignatureError("not signed")
        read = read_signature(data)
        public = public_key(key)
        if read.key_id != public.key_id or not public.has_signed(read.message, read.signature):
            raise SignatureError("not made by this key")
        compare_files(read.files, hash_folder(folder_fd, {}, read))
    finally:
        os.close(folder_fd)


@pytest.mark.parametrize("curve", [P256, P384])
def test_what_was_signed_passes(folder: Path, curve: ec.EllipticCurve) -> None:
    key = private_key(curve)
    sign(folder, key)
    check(folder, key)


@pytest.mark.parametrize("curve", [P256, P384])
def test_another_key_does_not_vouch_for_it(folder: Path, curve: ec.EllipticCurve) -> None:
    sign(folder, private_key(curve))
    for other in (private_key(P256), private_key(P384)):
        with pytest.raises(SignatureError, match="not made by this key"):
            check(folder, other)


@pytest.mark.parametrize("name", FILES)
def test_each_byte_of_each_file_counts(folder: Path, name: str) -> None:
    key = private_key()
    sign(folder, key)
    good = (folder / name).read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1
        (folder / name).write_bytes(bad)
        with pytest.raises(SignatureError, match="not what was signed"):
            check(folder, key)
    (folder / name).write_bytes(good)
    check(folder, key)


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (lambda f: (f / ".hidden").unlink(), r"\.hidden: signed, but missing"),
        (lambda f: (f / "more").write_text(""), "more: not signed"),
        (lambda f: (f / ".more").write_text(""), r"\.more: not signed"),
        (lambda f: (f / "weights" / "more").write_text(""), "weights/more: not signed"),
        (lambda f: (f / "weights" / SIGNATURE).write_text(""), "weights/model.sig: not signed"),
        (lambda f: (f / "weights" / "part-1").rename(f / "part-1"), "part-1: not signed"),
        (lambda f: (f / "more").symlink_to("manifest.json"), "more: a link"),
        (lambda f: (f / "more").symlink_to(".", target_is_directory=True), "more: a link"),
        (lambda f: os.mkfifo(f / "more"), "more: a link, or no regular file"),
        (lambda f: (f / "more").hardlink_to(f / "manifest.json"), "second hard link"),
        (lambda f: (f / SIGNATURE).unlink(), "not signed"),
        (lambda f: (f / SIGNATURE).write_bytes(b" " * ((1 << 20) + 1)), "larger than"),
        (
            lambda f: (f / SIGNATURE).rename(f / "s") and (f / SIGNATURE).symlink_to("s"),
            "model.sig: a link",
        ),
        (lambda f: (f / "/".join("d" * 17)).mkdir(parents=True), "folders in folders"),
    ],
)
def test_what_was_done_to_a_folder_is_named(
    folder: Path, tamper: Callable[[Path], object], problem: str
) -> None:
    key = private_key()
    sign(folder, key)
    tamper(folder)
    with pytest.raises(SignatureError, match=problem):
        check(folder, key)


def test_more_files_than_a_signature_may_list_are_not_read(folder: Path) -> None:
    key = private_key()
    sign(folder, key)
    for index in range(1100):
        (folder / f"z{index}").write_text("")
    with pytest.raises(SignatureError, match="more than 1024 files"):
        check(folder, key)


def test_what_the_signature_ignores_may_change_but_not_be_used(folder: Path) -> None:
    """The format lets a signer leave paths out; no file that is loaded may be among them."""
    key = private_key()
    sign(folder, key, ("weights", ".hidden", SIGNATURE))
    (folder / "weights" / "part-1").write_text("other")
    check(folder, key)
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        read = read_signature((folder / SIGNATURE).read_bytes())
        with pytest.raises(SignatureError, match="weights/part-1: not signed"):
            hash_folder(folder_fd, {"weights/part-1": "00" * 32}, read)
        with pytest.raises(SignatureError, match="gone: missing"):
            hash_folder(folder_fd, {"gone": "00" * 32})
    finally:
        os.close(folder_fd)


def test_what_was_read_already_is_not_read_again(folder: Path) -> None:
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        found = hash_folder(folder_fd, {"manifest.json": "ab" * 32})
    finally:
        os.close(folder_fd)
    assert found["manifest.json"] == "ab" * 32
    assert list(found) == sorted(FILES)


@pytest.mark.parametrize("curve", [P256, P384])
def test_a_signature_that_was_changed_is_none(curve: ec.EllipticCurve) -> None:
    key = private_key(curve)
    public, message = public_key(key), b"message"
    good = signed(key, message)
    assert public.has_signed(message, good)
    r, s = decode_dss_signature(good)
    for bad in (
        good[:-1],
        good + b"\0",
        good[1:],
        b"",
        encode_dss_signature(0, 0),
        encode_dss_signature(r, 0),
        encode_dss_signature(s, r),
        encode_dss_signature(r + 1, s),
        encode_dss_signature(1 << 400, s),
    ):
        assert not public.has_signed(message, bad)


def test_the_twin_of_a_signature_holds_as_well() -> None:
    """What signs prefers none of the two, so neither can be refused; it signs the same."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    key = private_key(P256)
    r, s = decode_dss_signature(signed(key, b"message"))
    twin = encode_dss_signature(r, order - s)
    assert public_key(key).has_signed(b"message", twin)
    assert not public_key(key).has_signed(b"other", twin)


def test_a_key_has_one_name_however_it_is_written() -> None:
    pem = public_pem(private_key())
    lines = pem.split(b"\n")
    padded = b"# of the maker\n" + b"\r\n".join(lines)
    assert read_public_key(padded, "maker").key_id == read_public_key(pem, "maker").key_id


def other_key(curve: ec.EllipticCurve) -> bytes:
    return public_pem(ec.generate_private_key(curve))


def rsa_key() -> bytes:
    public = rsa.generate_private_key(65537, 2048).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        (other_key(ec.SECP521R1()), "not a key of the curve P-256 or P-384"),
        (other_key(ec.SECP256K1()), "not a key of the curve P-256 or P-384"),
        (rsa_key(), "not a key of the curve P-256 or P-384"),
        (private_pem(private_key()), "a private key, which belongs on no device"),
        (public_pem(private_key()) * 2, "not one public key in PEM"),
        (b"", "not one public key in PEM"),
        (b"x" * (1 << 15), "not one public key in PEM"),
        (public_pem(private_key()).replace(b"M", b"N", 1), "not a public key"),
        (public_pem(private_key())[:60] + b"\n-----END PUBLIC KEY-----\n", "not a public key"),
    ],
)
def test_what_is_no_key_of_these_curves_is_refused_by_name(pem: bytes, problem: str) -> None:
    with pytest.raises(SignatureError, match=f"^maker: {problem}"):
        read_public_key(pem, "maker")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"version": 0}', b'{"version": "1"}', b'{"version": 1, "a": 1}', b" " * 1025],
)
def test_a_version_is_a_number_from_one(folder: Path, content: bytes) -> None:
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        assert version_in(folder_fd) == 0
        (folder / VERSION).write_bytes(version_bytes(202611280145))
        assert version_in(folder_fd) == 202611280145
        (folder / VERSION).write_bytes(content)
        with pytest.raises(BundleError, match=r"version\.json: "):
            version_in(folder_fd)
    finally:
        os.close(folder_fd)
