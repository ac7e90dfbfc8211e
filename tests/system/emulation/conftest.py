"""The real model, as tests/system/model builds it."""

from tests.system.model.conftest import real_bundle

__all__ = ["real_bundle"]
