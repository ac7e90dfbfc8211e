"""The state volume of ``deploy/k3s`` holds what a node with the real model writes there."""

from pathlib import Path

import yaml

from edged.bundle.folder import Bundle
from edged.engine import prepared
from tests.paths import ROOT

MIB = 1 << 20
# Crash journal, 4 MiB of corrections, measurements, and keys and values of some warm prompts.
OTHERS_MIB = 64


def state_volume_bytes() -> int:
    text = (ROOT / "deploy" / "k3s" / "edged.yaml").read_text("utf-8")
    (daemon_set,) = [d for d in yaml.safe_load_all(text) if d["kind"] == "DaemonSet"]
    volumes = daemon_set["spec"]["template"]["spec"]["volumes"]
    (state,) = [volume for volume in volumes if volume["name"] == "state"]
    return int(state["emptyDir"]["sizeLimit"].removesuffix("Mi")) * MIB


def test_the_prepared_copy_fits_into_the_state_volume(real_bundle: Bundle, tmp_path: Path) -> None:
    room_bytes = state_volume_bytes() - OTHERS_MIB * MIB
    weights_bytes = sum(entry.size_bytes for entry in real_bundle.manifest.files.values())
    assert prepared._SIZE_FACTOR * weights_bytes < room_bytes
    copy = prepared.prepared_model(real_bundle, tmp_path / "prepared", 1024 * MIB)
    assert copy is not None
    assert sum(path.stat().st_size for path in (tmp_path / "prepared").rglob("*")) < room_bytes
