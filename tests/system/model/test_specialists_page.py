"""The commands of ``docs/specialists.md``, in their order, with the real model and a broker."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from edged.bundle.folder import Bundle
from edged.cli import main
from edged.commands.local_broker import Broker
from tests.paths import ROOT
from tests.requirements import require
from tests.system.broker.daemons import Daemon, daemon

PAGE = (ROOT / "docs" / "specialists.md").read_text("utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
EXAMPLES = ROOT / "deploy" / "examples" / "washing-machine.csv"
RELOAD = re.compile(r"systemctl reload edged|pkill -HUP -f 'edged run'")


class Walk:
    """A person who does what stands there, block by block, in a folder like a checkout.

    Changed are only the port of the broker, and what belongs to an installed service: root, its
    folder for models, and the command that reloads it.
    """

    def __init__(self, folder: Path, bundle: Bundle, broker: Broker, stack: ExitStack) -> None:
        self._folder, self._broker, self._stack = folder, broker, stack
        self._daemon: Daemon | None = None
        place = {"host": broker.host, "port": broker.port}
        self._config: dict[str, Any] = {"broker": place, "specialists": []}
        (folder / "bin").mkdir()
        program = folder / "bin" / "edged"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edged "$@"\n')
        program.chmod(0o755)
        (folder / "deploy").symlink_to(ROOT / "deploy")
        (folder / "models").mkdir()
        (folder / "models" / bundle.manifest.name).symlink_to(bundle.folder.resolve())
        self.printed: list[tuple[str, str]] = []
        """Each command block, and what it printed."""

    @property
    def corrections(self) -> Path:
        """The file that the node keeps them in."""
        return self._folder / "state" / "corrections.jsonl"

    def said(self, words: str) -> str:
        """Return what the first block with these words printed."""
        return next(output for block, output in self.printed if words in block)

    def take(self, language: str, block: str) -> None:
        """Do what a block says."""
        if language == "yaml":
            self._config |= yaml.safe_load(block)
            (self._folder / "kitchen.yaml").write_text(yaml.safe_dump(self._config))
        elif language == "python":
            address = f'"{self._broker.host}", {self._broker.port}'
            script = block.replace('"localhost", 1883', address)
            self.printed.append((block, self._run([sys.executable, "-c", script])))
        elif block.startswith("edged run "):
            arguments = block.split()[2:]
            arguments[-1] = str(self._folder / arguments[-1])
            self._daemon = self._stack.enter_context(daemon(self._folder, *arguments))
            self._daemon.until("STATUS=serving")
        elif language == "sh":
            *before, after = RELOAD.split(self._adapted(block))
            output = "".join(self._run(["bash", "-euc", part]) for part in before)
            if before:
                self._reload()
            self.printed.append((block, output + self._run(["bash", "-euc", after])))

    def _adapted(self, block: str) -> str:
        port, url = self._broker.port, self._broker.url
        block = block.replace("-h localhost", f"-h {self._broker.host} -p {port}")
        block = block.replace("edged ask ", f"edged ask --broker {url} ")
        # The node teaches itself: what a larger one would say is not to be seen here.
        block = block.replace("mqtt://localhost/study", f"{url}/kitchen")
        return block.replace("sudo ", "").replace("/var/lib/", f"{self._folder}/var/lib/")

    def _reload(self) -> None:
        """Reload the node, and wait until it is connected again if it was restarted."""
        assert self._daemon is not None
        self._daemon.process.send_signal(signal.SIGHUP)
        self._daemon.until("RELOADING=1")
        self._daemon.until("READY=1")
        place = f"-h {self._broker.host} -p {self._broker.port} -t edged/kitchen/availability"
        # Its errors go nowhere: what is captured is open until all that may write into it ended.
        sub = f"mosquitto_sub {place} -W 60 2>/dev/null"
        self._run(["bash", "-euc", f"grep -m 1 online < <({sub})"])

    def _run(self, command: list[str]) -> str:
        path = f"{self._folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def walked(tmp_path: Path, real_bundle: Bundle, tuned: Path, mosquitto: Broker) -> Iterator[Walk]:
    """What each block of the page printed; the node still runs."""
    require(shutil.which("mosquitto_rr"), "mosquitto_rr is not installed (apt: mosquitto-clients)")
    shutil.copytree(tuned, tmp_path / "state")
    with ExitStack() as stack:
        walk = Walk(tmp_path, real_bundle, mosquitto, stack)
        for language, block in BLOCKS:
            walk.take(language, block)
        yield walk


def test_the_commands_of_the_page_make_a_specialist_that_decides(
    walked: Walk, mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    taught = walked.said("--output specialists/washing-machine").splitlines()
    shown = next(block for language, block in BLOCKS if language == "text").splitlines()
    assert taught[0] == shown[0]
    assert re.fullmatch(r"[\d.]+% right \(.*\), ECE .*; answers .*% right", taught[-2])
    accuracy = float(taught[-2].partition("%")[0])
    assert accuracy >= 80
    tried = walked.said("edged try").splitlines()
    assert re.fullmatch(r"none of these: \d+%  \(\d+ ms\)", tried[-4])
    assert re.search(r"^n +6$", walked.said("edged eval --model"), re.MULTILINE)
    text, _, reply = walked.said("mosquitto_rr").partition("\n")
    assert text == "leak"
    assert_like(json.loads(reply), documented("washing-machine", "leak"))
    assert walked.said("import paho").split()[0] == "noise"
    assert "%" in walked.said("--precision 0.99").splitlines()[-2]
    assert re.match(r"heard.csv: \d+ examples, one of 5 labels", walked.said("--teacher"))
    chosen = replied(walked.said('"specialist": "auto"'))
    assert (chosen["specialist"], chosen["text"]) == ("washing-machine", "leak")
    assert sorted(chosen["specialists"]) == ["lights", "washing-machine"]
    answers = replied(walked.said('"questions": {'))["answers"]
    assert (answers["fault"]["text"], answers["fault"]["specialist"]) == ("leak", "washing-machine")
    assert answers["urgent"]["text"] in {"yes", "no"}
    assert answers["urgent"]["calibrated"] is False
    passed_on = replied(walked.said("Ada Lovelace"))
    assert (passed_on["specialist"], passed_on["escalated_from"]) == (None, "lights")
    assert passed_on["text"]
    kept = replied(walked.said("request/correct"))
    assert kept == {"kept": True, "count": 1}
    assert '"prompt": "The water' in walked.corrections.read_text("utf-8")
    # The cases that need a specialist apply to this node.
    place = ["--broker", mosquitto.url, "--node", "kitchen", "--protocol", "5"]
    status = main(["conformance", *place, "--case", "decisions: *"])
    assert status == 0, capsys.readouterr().out
    # Only what a node without any must refuse does not.
    assert "0 failed, 1 not applicable" in capsys.readouterr().out


def replied(output: str) -> Any:  # noqa: ANN401 - JSON
    """Return ``data`` of the last reply of a block."""
    return json.loads(output.splitlines()[-1])["data"]


def documented(*words: str) -> Any:  # noqa: ANN401 - JSON
    """Return the reply of the page that has these words."""
    replies = (block for language, block in BLOCKS if language == "json")
    return json.loads(next(block for block in replies if all(word in block for word in words)))


def assert_like(said: Any, shown: Any) -> None:  # noqa: ANN401 - JSON
    """Compare a reply with the page's: the same members, and the same words of a decision."""
    assert said.keys() == shown.keys()
    assert said["data"].keys() == shown["data"].keys()
    for name in ("text", "json", "choice", "finish_reason", "specialist"):
        assert said["data"][name] == shown["data"][name], name
    assert len(said["data"]["probabilities"]) == len(shown["data"]["probabilities"])
    assert said["usage"].keys() == shown["usage"].keys()
    assert said["usage"]["completion_tokens"] == 0


def test_the_examples_on_the_page_are_those_of_the_file() -> None:
    lines = EXAMPLES.read_text("utf-8").splitlines()
    shown = next(block for language, block in BLOCKS if language == "csv").splitlines()
    assert set(shown) <= set(lines)
    rows = list(csv.DictReader(lines))
    assert len(rows) == 50
    assert len({row["answer"] for row in rows if row["answer"]}) == 5
    assert len({row["prompt"] for row in rows}) == 50
    assert sum(not row["answer"] for row in rows) == 10
