"""The bundle on disk: an untouched one opens, and each way of tampering with it is named."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.bundle.folder import Bundle, copy_bundle, open_bundle, write_manifest
from edged.errors import BundleError, ExitCode
from tests.protobuf import entry, field, model
from tests.unit.test_manifest import make_manifest

GRAPH = model(entry("location", "model.onnx.data")) + field(2, b"producer")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A small valid bundle whose graph refers to its external data."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(GRAPH)
    (folder / "model.onnx.data").write_bytes(bytes(range(256)) * 8192)
    (folder / "tokenizer.json").write_bytes(b"{}")
    return write_manifest(folder, make_manifest())


def assert_refused(
    folder: Path, *words: str, verify: bool = True, exit_code: ExitCode = ExitCode.CONFIG
) -> None:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, verify=verify)
    assert caught.value.exit_code is exit_code
    for word in words:
        assert word in str(caught.value)


def assert_missing(folder: Path, *words: str) -> None:
    """What is not there may come by itself, such as a folder that is mounted later."""
    assert_refused(folder, *words, exit_code=ExitCode.TEMPORARY_FAILURE)


def test_an_untouched_bundle_opens(bundle: Bundle) -> None:
    opened = open_bundle(bundle.folder)
    assert opened == bundle
    assert opened.model_path.read_bytes() == GRAPH
    assert opened.tokenizer_path.read_bytes() == b"{}"
    assert opened.model_id == f"toy-1m-fp32@{bundle.sha256[:6]}"


def test_a_signature_and_a_version_may_be_beside_the_files_and_are_copied(
    bundle: Bundle, tmp_path: Path
) -> None:
    (bundle.folder / "model.sig").write_text("signature")
    (bundle.folder / "version.json").write_text("version")
    assert write_manifest(bundle.folder, make_manifest()).sha256 == bundle.sha256
    copy = tmp_path / "copy"
    copy.mkdir()
    folder_fd = os.open(copy, os.O_RDONLY)
    try:
        assert copy_bundle(bundle.folder, folder_fd).sha256 == bundle.sha256
    finally:
        os.close(folder_fd)
    assert (copy / "model.sig").read_text() == "signature"
    assert (copy / "version.json").read_text() == "version"


def test_writing_the_manifest_again_changes_nothing(bundle: Bundle) -> None:
    """The manifest's bytes depend on its fields and the files only."""
    assert write_manifest(bundle.folder, make_manifest()).sha256 == bundle.sha256


def test_the_folder_may_be_a_link(bundle: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(bundle.folder)
    assert open_bundle(link).sha256 == bundle.sha256


def test_what_is_loaded_is_what_was_checked_wherever_the_link_leads_by_then(
    bundle: Bundle, tmp_path: Path
) -> None:
    """A store changes what its link leads to while a service starts."""
    link = tmp_path / "current"
    link.symlink_to(bundle.folder)
    opened = open_bundle(link)
    link.unlink()
    link.symlink_to("other")
    assert opened.folder == link
    assert opened.model_path.read_bytes() == GRAPH
    assert opened.tokenizer_path == bundle.tokenizer_path
    link.unlink()
    link.symlink_to(link)
    assert_missing(link, f"{link}: Too many levels of symbolic links")


def test_a_bundle_may_keep_its_weights_in_the_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model(b""))
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    write_manifest(tmp_path, make_manifest())
    assert open_bundle(tmp_path).manifest.files.keys() == {"model.onnx", "tokenizer.json"}


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("model.onnx", -1),
        ("model.onnx.data", 0),
        ("model.onnx.data", -1),
        ("tokenizer.json", 0),
        ("tokenizer.json", -1),
    ],
)
def test_one_flipped_byte_is_found(bundle: Bundle, name: str, position: int) -> None:
    path = bundle.folder / name
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert_refused(bundle.folder, f"{name}: sha256 differs", "rebuild it with `edged build`")
    assert open_bundle(bundle.folder, verify=False).sha256 == bundle.sha256


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_found(bundle: Bundle, verify: bool) -> None:
    os.truncate(bundle.folder / "model.onnx.data", 100)
    assert_refused(
        bundle.folder, "model.onnx.data: 100 bytes, the manifest says 2097152", verify=verify
    )


@pytest.mark.parametrize("verify", [True, False])
def test_an_extra_file_is_found(bundle: Bundle, verify: bool) -> None:
    (bundle.folder / "notes.txt").write_text("hello")
    assert_refused(bundle.folder, "notes.txt: not in the manifest", verify=verify)


def test_an_extra_folder_is_found(bundle: Bundle) -> None:
    (bundle.folder / "more").mkdir()
    assert_refused(bundle.folder, "more: not in the manifest")


def test_a_missing_file_is_found(bundle: Bundle) -> None:
    (bundle.folder / "model.onnx.data").unlink()
    assert_missing(bundle.folder, "model.onnx.data: listed in the manifest but missing")


def replaced_by(make: Callable[[Path, Path], object]) -> Callable[[Path], None]:
    """Return an action that moves a file out of the bundle and puts something in its place."""

    def replace(path: Path) -> None:
        elsewhere = path.parent.parent / "elsewhere"
        path.rename(elsewhere)
        make(path, elsewhere)

    return replace


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx.data"])
@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (replaced_by(Path.symlink_to), "cannot be opened as a plain file"),
        (replaced_by(Path.hardlink_to), "second hard link"),
        (replaced_by(lambda path, _: path.mkdir()), "not a regular file"),
        (replaced_by(lambda path, _: os.mkfifo(path)), "not a regular file"),
    ],
)
def test_what_is_not_a_plain_file_is_refused(
    bundle: Bundle, name: str, tamper: Callable[[Path], None], complaint: str
) -> None:
    tamper(bundle.folder / name)
    assert_refused(bundle.folder, f"{name}: ", complaint)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert_missing(tmp_path, f"no manifest.json in {tmp_path}: not a bundle")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert_missing(tmp_path / "nowhere", str(tmp_path / "nowhere"), "No such file")


def test_a_disk_that_fails_is_no_fault_of_the_bundle(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: int) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", fail)
    assert_missing(bundle.folder, f"{bundle.folder}: cannot be read: Input/output error")


def test_a_file_is_no_bundle(bundle: Bundle) -> None:
    assert_missing(bundle.model_path, "Not a directory", "give the folder")


def test_a_huge_manifest_is_not_read(bundle: Bundle) -> None:
    os.truncate(bundle.folder / "manifest.json", (1 << 20) + 1)
    assert_refused(bundle.folder, "manifest.json: larger than 1048576 bytes")


@pytest.mark.parametrize(
    "graph",
    [
        model(entry("location", "/etc/passwd")),
        GRAPH + model(entry("location", "../model.onnx.data")),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", "adapted.onnx"])
def test_weights_outside_the_bundle_are_refused(bundle: Bundle, name: str, graph: bytes) -> None:
    """A graph that names another external data file is refused though its hash is right."""
    (bundle.folder / name).write_bytes(graph)
    with pytest.raises(BundleError, match=f"{name}: refers to weights outside"):
        write_manifest(bundle.folder, bundle.manifest)
    assert_refused(bundle.folder, f"{name}: refers to weights outside model.onnx.data")


def test_a_bundle_may_have_a_second_graph_that_takes_adapters(bundle: Bundle) -> None:
    """It is compared with the manifest as the first is, and only one of both is loaded."""
    assert not bundle.manifest.takes_adapters
    with pytest.raises(BundleError, match=r"no adapted\.onnx, so .* rebuild it .*`edged build`"):
        _ = bundle.adapted_path
    second = GRAPH + field(2, b"longer")
    (bundle.folder / "adapted.onnx").write_bytes(second)
    both = write_manifest(bundle.folder, bundle.manifest)
    assert both.manifest.takes_adapters
    assert both.adapted_path.read_bytes() == second
    loaded_bytes = bundle.manifest.loaded_bytes()
    assert both.manifest.loaded_bytes() == loaded_bytes
    more_bytes = len(second) - len(GRAPH)
    assert both.manifest.loaded_bytes(is_adapted=True) == loaded_bytes + more_bytes
    both.adapted_path.write_bytes(second[:-1] + b"x")
    assert_refused(bundle.folder, "adapted.onnx: sha256 differs from the manifest")
    both.adapted_path.unlink()
    assert_missing(bundle.folder, "adapted.onnx: listed in the manifest but missing")


def test_what_is_no_graph_is_refused_by_name(bundle: Bundle) -> None:
    bundle.model_path.write_bytes(b"graph")
    with pytest.raises(BundleError, match=r"model\.onnx: malformed.*rebuild it"):
        write_manifest(bundle.folder, bundle.manifest)


def test_an_empty_graph_is_refused(bundle: Bundle) -> None:
    bundle.model_path.write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx: empty"):
        write_manifest(bundle.folder, bundle.manifest)


def test_a_stray_file_cannot_be_packed(bundle: Bundle) -> None:
    (bundle.folder / "stray.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"'stray\.bin', which does not belong"):
        write_manifest(bundle.folder, bundle.manifest)
