"""The script that shows which operators the time goes to."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.tiny_model import write_tiny_bundle

SCRIPT = ROOT / "scripts" / "profile-operators"


@pytest.mark.parametrize(("words", "num_attentions"), [("--context 70", 2), ("--prompt 70", 4)])
def test_it_counts_the_nodes_of_a_run(words: str, num_attentions: int, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    command = [sys.executable, str(SCRIPT), str(bundle), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    nodes = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()[2:]}
    assert nodes["GroupQueryAttention"] == str(num_attentions)
