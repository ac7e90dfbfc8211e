"""Three nodes behind a shared subscription: a fault of one of them loses nothing."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.paths import ROOT
from tests.requirements import require
from tests.system.broker.conftest import require_mosquitto
from tests.system.faults.fleet import FAULTS, NODES, PARTITION_S
from tests.system.faults.requester import PATIENCE_S


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """The result of each fault, as the documented command prints it."""
    require_mosquitto()
    require(os.geteuid() == 0, "not root (networks of their own)")
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        require(shutil.which(program), f"{program} is not installed (apt-get install {package})")
    command = [sys.executable, "-m", "tests.system.faults.fleet"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    said = [json.loads(line) for line in result.stdout.splitlines()]
    return {one["fault"]: one for one in said}


@pytest.fixture(params=FAULTS)
def outcome(request: pytest.FixtureRequest, outcomes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The result of one of them."""
    return outcomes[request.param]


def test_a_requester_that_retries_gets_every_answer(outcome: dict[str, Any]) -> None:
    assert outcome["asked"] >= 60
    assert outcome["lost"] == 0


def test_every_node_answers_some_and_no_request_waits_longer_than_the_fault(
    outcome: dict[str, Any],
) -> None:
    assert outcome["nodes"].keys() == set(NODES)
    lasted_s = PARTITION_S if outcome["fault"] == "partition" else 0.0
    # The broker may assign a request twice to a dead node before the keep-alive expires.
    assert outcome["longest_s"] < lasted_s + 3 * PATIENCE_S


def test_only_retried_requests_are_answered_twice(outcome: dict[str, Any]) -> None:
    if outcome["fault"] == "nothing":
        assert (outcome["asked_again"], outcome["answered_twice"]) == (0, 0)
    assert outcome["answered_twice"] <= outcome["asked_again"]
