"""The deciding code can be imported, and so tested and simulated, without the rest."""

import subprocess
import sys

import pytest

HEAVY = {"onnxruntime", "tokenizers", "llguidance", "paho", "psutil", "numpy", "jinja2", "yaml"}


@pytest.mark.parametrize(
    "module",
    [
        "edged.node.node",
        "edged.scheduling.scheduler",
        "edged.protocol.decode",
        "edged.protocol.encode",
    ],
)
def test_deciding_loads_no_library(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert not HEAVY & set(result.stdout.split())
