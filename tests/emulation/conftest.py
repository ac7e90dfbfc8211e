"""The real model, as tests/model builds it."""

from tests.model.conftest import real_bundle

__all__ = ["real_bundle"]
