"""``model.sig``: what is one is read, and whatever could be read in two ways is refused by name."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.bundle.signature import (
    MAX_SIGNATURE_BYTES,
    SignatureError,
    authenticated,
    compare_files,
    read_signature,
    root_digest,
)
from tests.examples import num_examples
from tests.signing import changed, envelope, private_key, public_key, signed, statement

FILES = {"manifest.json": b"{}", "weights/part-1": b"1"}
KEY = private_key()
GOOD = envelope(KEY, statement(FILES))


def refused(data: bytes) -> str:
    with pytest.raises(SignatureError) as caught:
        read_signature(data)
    assert "model.sig: " in str(caught.value)
    assert "`edged sign`" in str(caught.value)
    return str(caught.value)


def with_statement(change: Callable[[dict[str, Any]], object]) -> bytes:
    said = statement(FILES)
    change(said)
    return json.dumps(envelope(KEY, said)).encode()


def test_what_was_signed_is_read() -> None:
    read = read_signature(json.dumps(GOOD).encode())
    assert list(read.files) == ["manifest.json", "weights/part-1"]
    assert read.ignored == ("model.sig",)
    assert read.key_id == public_key(KEY).key_id
    payload = base64.b64decode(GOOD["dsseEnvelope"]["payload"])
    assert read.message == authenticated(payload)
    assert public_key(KEY).has_signed(read.message, read.signature)


def test_the_encoding_of_what_is_signed_is_the_one_of_the_standard() -> None:
    """The lengths and parts of DSSE's own definition."""
    assert authenticated(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.update(mediaType="x"), "mediaType must be"),
        (lambda t: t.update(more=1), "unknown key 'more'"),
        (lambda t: t.update(verificationMaterial=[]), "verificationMaterial must be an object"),
        (lambda t: t["verificationMaterial"].update(tlogEntries=[{}]), "tlogEntries must be empty"),
        (
            lambda t: t["verificationMaterial"].update(timestampVerificationData={"a": 1}),
            "timestampVerificationData is not supported",
        ),
        (lambda t: t["verificationMaterial"].pop("publicKey"), "has no publicKey"),
        (
            lambda t: t["verificationMaterial"].update(publicKey={"rawBytes": "AA=="}),
            "hint is missing: made by a tool older",
        ),
        (
            lambda t: t["verificationMaterial"]["publicKey"].update(hint="A" * 64),
            "must be 64 hexadecimal digits",
        ),
        (
            lambda t: t["verificationMaterial"].update(certificate={"rawBytes": "AA=="}),
            "the method sigstore is not supported",
        ),
        (lambda t: t["dsseEnvelope"].update(payloadType="text"), "payloadType must be"),
        (lambda t: t["dsseEnvelope"].update(payload=""), "payload must be base64"),
        (lambda t: t["dsseEnvelope"].update(payload="e30"), "payload must be base64"),
        (lambda t: t["dsseEnvelope"].update(payload="e31="), "payload must be base64"),
        (lambda t: t["dsseEnvelope"].update(payload=7), "payload must be base64"),
        (lambda t: t["dsseEnvelope"].update(signatures=[]), "signatures must have one entry"),
        (
            lambda t: t["dsseEnvelope"].update(signatures=2 * t["dsseEnvelope"]["signatures"]),
            "signatures must have one entry",
        ),
        (
            lambda t: t["dsseEnvelope"]["signatures"][0].update(keyid="other"),
            "keyid must be empty",
        ),
        (
            lambda t: t["dsseEnvelope"]["signatures"][0].update(
                sig=base64.b64encode(b"0" * 129).decode()
            ),
            "too long for a key",
        ),
    ],
)
def test_what_is_wrong_around_the_statement_is_named(
    change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    assert problem in refused(changed(GOOD, change))


@pytest.mark.parametrize("keyid", ["", None, ...])
def test_a_key_id_may_be_empty_null_or_absent(keyid: object) -> None:
    one = GOOD["dsseEnvelope"]["signatures"][0] | {"keyid": keyid}
    if keyid is ...:
        del one["keyid"]
    data = changed(GOOD, lambda t: t["dsseEnvelope"].update(signatures=[one]))
    assert read_signature(data).key_id == public_key(KEY).key_id


def resource(**more: object) -> dict[str, Any]:
    first: dict[str, Any] = statement(FILES)["predicate"]["resources"][0]
    return first | more


def serialization(**more: object) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["predicate"]["serialization"].update(more)


def resources(*found: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["predicate"].update(resources=list(found))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda said: said.update(_type="https://in-toto.io/Statement/v0.1"), "_type must be"),
        (lambda said: said.update(subject=[]), "subject must have one entry"),
        (lambda said: said["subject"][0].update(name=""), "subject.name must be a text"),
        (
            lambda said: said["subject"][0]["digest"].update(sha256="0" * 64),
            "not that of the files",
        ),
        (lambda said: said["subject"][0].update(digest={"sha512": "00"}), "digest has no sha256"),
        (lambda said: said["predicate"].update(more=1), "unknown key 'more'"),
        (serialization(method="shards", shard_size=10), "method must be files"),
        (serialization(method="tensors"), "method must be files"),
        (serialization(hash_type="blake3"), "hash_type must be sha256"),
        (serialization(hash_type="md5"), "hash_type must be sha256"),
        (serialization(allow_symlinks=True), "allow_symlinks must be false"),
        (serialization(ignore_paths="x"), "ignore_paths must be a list"),
        (serialization(ignore_paths=["../x"]), "leaves the folder"),
        (serialization(ignore_paths=["weights"]), "weights/part-1 is listed and ignored"),
        (resources(), "resources must be a list of 1 to"),
        (resources(*[resource()] * 1025), "resources must be a list of 1 to"),
        (resources(resource(), resource()), "is there twice"),
        (resources(resource(algorithm="blake2b")), "algorithm must be sha256"),
        (resources(resource(digest="AB" * 32)), "must be 64 hexadecimal digits"),
        (resources(resource(digest="ab" * 31)), "must be 64 hexadecimal digits"),
    ],
)
def test_what_is_wrong_in_the_statement_is_named(
    change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    assert problem in refused(with_statement(change))


def test_a_signature_does_not_list_itself() -> None:
    data = json.dumps(envelope(KEY, statement({"model.sig": b""}, ()))).encode()
    assert "model.sig is listed and ignored" in refused(data)


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../manifest.json", "a/../../b", "a//b", "a/", "./a", "a/.", "."),
        *("a\\b", "a\0b", "a\nb", "\x7f", "\ud800"),
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(name: str) -> None:
    problem = refused(with_statement(resources(resource(name=name))))
    assert "leaves the folder" in problem or "not JSON in UTF-8" in problem


@pytest.mark.parametrize("name", ["", "a" * 1025, "ä" * 513, 7, None, ["a"]])
def test_a_path_without_a_bound_is_refused(name: object) -> None:
    assert "must be a path of 1 to 1024 bytes" in refused(
        with_statement(resources(resource(name=name)))
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "must be an object"),
        (b'{"mediaType": 1, "mediaType": 2}', "a key stands twice"),
        (json.dumps(GOOD).encode("utf-16"), "not JSON in UTF-8"),
        (b"\xff", "not valid JSON"),
        (b" " * (MAX_SIGNATURE_BYTES + 1), "larger than"),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes, problem: str) -> None:
    assert problem in refused(data)


def test_a_key_that_is_twice_in_the_statement_is_refused() -> None:
    text = json.dumps(statement(FILES)).replace("{", '{"_type": "x", ', 1)
    assert "a key stands twice" in refused(json.dumps(envelope(KEY, text.encode())).encode())


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """Return the path of each value in a tree."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = [path] if path else []
    if isinstance(tree, dict | list):
        for key, value in below:
            found += places(value, (*path, key))
    return found


def with_value(tree: dict[str, Any], path: tuple[Any, ...], value: object) -> bytes:
    def change(copied: dict[str, Any]) -> None:
        holder: Any = copied
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value

    return changed(tree, change)


@pytest.mark.parametrize("value", [None, 0, "x", [], {}, True])
@pytest.mark.parametrize("path", places(GOOD), ids=str)
def test_another_value_anywhere_is_refused_or_means_the_same(
    path: tuple[Any, ...], value: object
) -> None:
    """No change of a field makes another signature that a key vouches for."""
    good = read_signature(json.dumps(GOOD).encode())
    try:
        read = read_signature(with_value(GOOD, path, value))
    except SignatureError:
        return
    assert read == good


@settings(max_examples=num_examples(300))
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_one_changed_byte_is_refused_means_the_same_or_is_not_vouched_for(
    place: int, change: int
) -> None:
    data = bytearray(json.dumps(GOOD).encode())
    data[place % len(data)] ^= change
    try:
        read = read_signature(bytes(data))
    except SignatureError:
        return
    key = public_key(KEY)
    is_vouched = read.key_id == key.key_id and key.has_signed(read.message, read.signature)
    assert not is_vouched or read == read_signature(json.dumps(GOOD).encode())


def test_a_statement_by_another_payload_is_not_vouched_for() -> None:
    other = json.dumps(statement({"manifest.json": b"other"})).encode()
    data = changed(
        GOOD, lambda t: t["dsseEnvelope"].update(payload=base64.b64encode(other).decode())
    )
    read = read_signature(data)
    assert not public_key(KEY).has_signed(read.message, read.signature)


def test_what_is_signed_is_not_the_payload_alone() -> None:
    payload = base64.b64decode(GOOD["dsseEnvelope"]["payload"])
    assert not public_key(KEY).has_signed(
        payload, read_signature(json.dumps(GOOD).encode()).signature
    )
    assert public_key(KEY).has_signed(payload, signed(KEY, payload))


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"a": "1"}, "b: signed, but missing"),
        ({"a": "1", "b": "3"}, "b: not what was signed"),
        ({"a": "1", "b": "2", ".c": "3"}, r"\.c: not signed; remove it"),
    ],
)
def test_what_was_added_changed_or_removed_is_named(found: dict[str, str], problem: str) -> None:
    compare_files({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    with pytest.raises(SignatureError, match=problem):
        compare_files({"a": "1", "b": "2"}, found)


def test_the_root_is_the_hash_of_the_hashes_in_their_order() -> None:
    one, two = "aa" * 32, "bb" * 32
    assert root_digest({"x": one, "y": two}) != root_digest({"y": two, "x": one})
    assert root_digest({"x": one}) == root_digest({"other": one})
