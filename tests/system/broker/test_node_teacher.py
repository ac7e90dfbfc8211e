"""A node as a teacher over real brokers: what it says of prompts reaches the examples."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from edged.commands.gather import gather
from edged.commands.local_broker import Broker
from edged.commands.teach import add_arguments, add_source_options
from edged.commands.written_teacher import with_answers
from edged.errors import ErrorCode, ExitCode, UnavailableError, UsageError
from edged.protocol.request import Rejected, Request
from edged.protocol.wire import Delivery, Encoded, WireProperties
from edged.specialists.examples import Example
from tests.system.broker.wire_ends import FakeNode

ROOMS = ("bath", "hall", "kitchen")
WORDS = {"towel": "bath", "coat": "hall", "oven": "kitchen", "shower": "bath"}


class RoomNode(FakeNode):
    """A node that knows which room a prompt is about, and says how sure it is."""

    has_probabilities = True
    num_refusals = 0

    def _generate(self, delivery: Delivery, request: Request) -> None:
        if self.num_refusals:
            self.num_refusals -= 1
            self.refusals[request.messages[-1].content] = Rejected(
                ErrorCode.QUEUE_FULL, "is full", retry_after_s=0.01
            )
            super()._generate(delivery, request)
            self.refusals.clear()
            return
        if request.messages[-1].content in self.refusals:
            super()._generate(delivery, request)
            return
        choices = request.format.choices
        rooms = [WORDS[word] for word in request.messages[-1].content.split() if word in WORDS]
        shares = [rooms.count(choice) / len(rooms) for choice in choices]
        best = shares.index(max(shares))
        data: dict[str, Any] = {"text": choices[best], "choice": best, "finish_reason": "stop"}
        if self.has_probabilities:
            data |= {"probabilities": shares, "calibrated": False}
        reply = {"v": 1, "id": request.reply_to.request_id, "status": "ok", "data": data}
        topic = request.reply_to.topic
        message = Encoded(topic, json.dumps(reply).encode(), WireProperties())
        self._owed[self._transport.publish(message)] = delivery


def taught(broker: Broker, folder: Path, *prompts: str) -> list[Example]:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    parser = argparse.ArgumentParser()
    add_source_options(parser)
    parser.set_defaults(output=folder / "rooms")
    options = ["--teacher", f"{broker.url}/kitchen", "--labels", ",".join(ROOMS)]
    return gather(parser.parse_args([str(path), *options]), "rooms", lambda _: None)[1]


def test_probabilities_become_weighted_examples_over_every_broker_and_version(
    broker: Broker, tmp_path: Path
) -> None:
    with RoomNode(broker) as node:
        examples = taught(broker, tmp_path, "a towel", "a coat, no: coat or oven or oven again")
        requests = node.requests
    assert [(one.line, one.answer, round(one.weight, 3)) for one in examples] == [
        (1, "bath", 1.0),
        (2, "kitchen", 0.667),
        (2, "hall", 0.333),
    ]
    assert [one.is_measure for one in examples] == [True, True, False]
    assert requests[0].format.choices == ROOMS
    assert "Labels: bath, hall, kitchen" in requests[0].messages[0].content
    assert requests[0].sampling.temperature == 0


def test_a_node_without_probabilities_gives_its_choice(mosquitto: Broker, tmp_path: Path) -> None:
    with RoomNode(mosquitto) as node:
        node.has_probabilities = False
        (example,) = taught(mosquitto, tmp_path, "shower and towel or a coat")
    assert (example.answer, example.weight) == ("bath", 1.0)


def test_an_overloaded_node_is_waited_for(mosquitto: Broker, tmp_path: Path) -> None:
    with RoomNode(mosquitto) as node:
        node.num_refusals = 3
        (example,) = taught(mosquitto, tmp_path, "the oven")
        assert len(node.requests) == 4
    assert example.answer == "kitchen"


def test_what_the_node_refuses_is_named_with_its_line(mosquitto: Broker, tmp_path: Path) -> None:
    with RoomNode(mosquitto) as node:
        node.refusals["too much"] = Rejected(ErrorCode.PROMPT_TOO_LONG, "9 tokens of 8")
        with pytest.raises(UsageError, match=r"jsonl:2: node kitchen: prompt_too_long: 9 tokens"):
            taught(mosquitto, tmp_path, "a coat", "too much")


def test_without_a_node_it_ends_at_once(mosquitto: Broker, tmp_path: Path) -> None:
    with RoomNode(mosquitto):
        pass  # it leaves "offline" behind
    with pytest.raises(UnavailableError, match=r"node kitchen at .* (is offline|does not listen)"):
        taught(mosquitto, tmp_path, "a coat")
    mosquitto.stop()
    with pytest.raises(UnavailableError) as caught:
        taught(mosquitto, tmp_path, "a coat")
    assert caught.value.exit_code == ExitCode.TEMPORARY_FAILURE


SWITCH = {
    "type": "object",
    "properties": {"state": {"enum": ["on", "off"]}},
    "required": ["state"],
    "additionalProperties": False,
}


class SwitchNode(FakeNode):
    """A node that writes JSON: it is sure of "on", and torn elsewhere."""

    def _generate(self, delivery: Delivery, request: Request) -> None:
        is_sure = "on" in request.messages[-1].content.split()
        torn: list[Any] = [{"state": "on"}, {"state": "off"}, None]
        answer = {"state": "on"} if is_sure else torn[(request.sampling.seed or 0) % 3]
        data = {"text": "", "json": answer, "finish_reason": "stop"}
        reply = {"v": 1, "id": request.reply_to.request_id, "status": "ok", "data": data}
        message = Encoded(request.reply_to.topic, json.dumps(reply).encode(), WireProperties())
        self._owed[self._transport.publish(message)] = delivery


def written(broker: Broker, folder: Path, *options: str) -> Path:
    (folder / "schema.json").write_text(json.dumps(SWITCH))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = [str(folder / "prompts.jsonl"), "--schema", str(folder / "schema.json"), *options]
    words += ["--model", "m", "--output", str(folder / "switch")]
    return with_answers(parser.parse_args([*words, "--teacher", f"{broker.url}/kitchen"]))


def test_answers_that_a_node_agrees_on_are_kept_and_asked_for_once(
    mosquitto: Broker, tmp_path: Path
) -> None:
    rows = [{"prompt": "lamp off", "answer": {"state": "off"}}]
    rows += [{"prompt": prompt} for prompt in ("on please", "on now", "hm")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    review = tmp_path / "review.jsonl"
    with SwitchNode(mosquitto) as node:
        taught_path = written(mosquitto, tmp_path, "--review", str(review))
        assert len(node.requests) == 3 + 3 + 5
        review.unlink()
        assert written(mosquitto, tmp_path) == taught_path
        assert len(node.requests) == 11 + 5
    kept = [json.loads(line) for line in taught_path.read_text().splitlines()]
    assert [(row["prompt"], row["answer"]["state"]) for row in kept[:3]] == [
        ("lamp off", "off"),
        ("on please", "on"),
        ("on now", "on"),
    ]
    assert len(kept) == 3


def test_what_it_does_not_agree_on_is_for_a_person_to_look_at(
    mosquitto: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "on"}\n{"prompt": "hm"}\n')
    review = tmp_path / "review.jsonl"
    with SwitchNode(mosquitto):
        path = written(mosquitto, tmp_path, "--review", str(review))
        with pytest.raises(UsageError, match=r"review\.jsonl is there already"):
            written(mosquitto, tmp_path, "--review", str(review))
    assert "1 of 2 prompts answered the same way" in capsys.readouterr().err
    (doubtful,) = review.read_text().splitlines()
    assert json.loads(doubtful)["prompt"] == "hm"
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == ["on"]


def test_a_teacher_that_cannot_write_is_refused_before_it_is_asked(
    mosquitto: Broker, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "hm"}\n{"messages": [{"role": "nobody"}]}\n')
    with pytest.raises(UsageError, match=r"prompts\.jsonl:2"):
        written(mosquitto, tmp_path)
    prompts.write_text('{"prompt": "hm", "answer": {"state": "on"}}\n')
    with pytest.raises(UsageError, match="has an answer already"):
        written(mosquitto, tmp_path)
