"""What a test needs from the machine: without it, a skip that says why, or a failure in CI."""

import os

import pytest

IS_ALL_REQUIRED = os.environ.get("EDGED_TEST_REQUIRE_ALL") == "1"


def require(condition: object, reason: str) -> None:
    """Skip the running test with ``reason`` unless ``condition`` holds; fail it in CI."""
    if condition:
        return
    if IS_ALL_REQUIRED:
        pytest.fail(f"required here, but missing: {reason}", pytrace=False)
    pytest.skip(reason)
