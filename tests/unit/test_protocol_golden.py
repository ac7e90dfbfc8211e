"""The wire contract as files: each golden message decodes and encodes to exactly what it says.

Run as a module, it writes the ``decoded`` part of request files anew; look at
the difference before you commit it.
"""

import json
from dataclasses import fields, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import pytest

from edged.commands.received import decode_fragment, decode_reply
from edged.errors import ErrorCode
from edged.protocol.decode import DecodedMessage, decode
from edged.protocol.encode import (
    encode_event,
    encode_fragment,
    encode_info,
    encode_reply,
    encode_state,
)
from edged.protocol.request import (
    Answer,
    CancelOutcome,
    CancelRequest,
    Correction,
    CorrectionOutcome,
    FinishReason,
    Rejected,
    Reply,
    ReplyAddress,
    Request,
    SessionState,
    Timing,
    Usage,
)
from edged.protocol.wire import (
    Delivery,
    Dropped,
    Encoded,
    Refusal,
    RequestDefaults,
    Topics,
    WireProperties,
)
from tests.paths import DATA

FOLDER = DATA / "messages"
REQUESTS = sorted(FOLDER.glob("request-*.json"))
SENT = sorted(path for path in FOLDER.glob("*.json") if path not in REQUESTS)
DEFAULTS = RequestDefaults(Topics("edged", "kitchen"), keeps_corrections=True)
TOPICS = Topics("edged", "kitchen")
NOW_S = 1000.0
ADDRESS = ReplyAddress("edged/kitchen/response/generate/ha", "a1", b"\x00\xff")
FULL_TIMING = Timing(0.0031, 0.41, 0.4131, 0.0949, 0.508)


def plain(value: object) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Turn decoded values into what JSON can hold."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, Enum):
        return str(value) if isinstance(value, StrEnum) else value.name
    if is_dataclass(value):
        members = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__} | members
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def read_delivery(golden: dict[str, Any]) -> Delivery:
    given = dict(golden.get("properties", {}))
    if "correlation_data" in given:
        given["correlation_data"] = given["correlation_data"].encode("latin-1")
    return Delivery(
        golden["topic"],
        golden["payload"].encode(),
        retain=golden.get("retain", False),
        properties=WireProperties(**given),
    )


def decode_golden(path: Path) -> DecodedMessage:
    return decode(read_delivery(json.loads(path.read_text())), DEFAULTS, NOW_S)


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_a_golden_request_decodes_to_what_its_file_says(path: Path) -> None:
    assert plain(decode_golden(path)) == json.loads(path.read_text())["decoded"]


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_every_truncation_of_a_golden_request_is_answered_or_a_counted_drop(path: Path) -> None:
    delivery = read_delivery(json.loads(path.read_text()))
    for end in range(len(delivery.payload)):
        cut = Delivery(delivery.topic, delivery.payload[:end], properties=delivery.properties)
        decoded = decode(cut, DEFAULTS, NOW_S)
        assert isinstance(decoded, Request | CancelRequest | Correction | Refusal | Dropped)
        is_cut_json = end > 0 and delivery.payload.startswith(b"{")
        if is_cut_json and delivery.properties.content_type in (None, "application/json"):
            assert isinstance(decoded, Refusal)
            assert decoded.reply_to.correlation_data == delivery.properties.correlation_data


def sent_messages() -> dict[str, Encoded]:
    answer = Answer("yes — ✓", FinishReason.STOP)
    chosen = Answer("closed", FinishReason.STOP, is_choice=True, choice=1)
    cut = Answer("", FinishReason.LENGTH, is_choice=True)
    shares = {"probabilities": [0.75, 0.25], "confidence": 0.75, "calibrated": False}
    scored = Answer("on", FinishReason.STOP, is_choice=True, choice=0, detail=shares)
    written = Answer(
        "on room=hall",
        FinishReason.STOP,
        {"state": "on", "room": "r1"},
        detail={"specialist": "rooms", "confidence": 0.97},
    )
    answers = {
        "lamp": {"text": "on", "choice": 0, **shares, "finish_reason": "stop"},
        "intent": {"finish_reason": "deadline"},
    }
    told = Answer(
        '{"lamp": "on"}', FinishReason.DEADLINE, {"lamp": "on"}, detail={"answers": answers}
    )
    usage = Usage(31, 20, 2)
    waiting = "the queue is full: 8 requests waiting"
    full = Rejected(ErrorCode.QUEUE_FULL, waiting, retry_after_s=2.4)
    late = Rejected(ErrorCode.TIMEOUT, "needs 9.1 s, has 8 s", detail={"predicted_ms": 9100})
    bare = ReplyAddress("edged/kitchen/response/generate")

    def encoded(reply: Reply, seconds_left: float | None = None) -> Encoded:
        return encode_reply(
            reply, node="kitchen", model_id="tiny-int8@3f2a91", seconds_left=seconds_left
        )

    return {
        "reply-answer": encoded(Reply(ADDRESS, answer, usage, FULL_TIMING), 7.2),
        "reply-json": encoded(Reply(bare, Answer('{"a":1}', FinishReason.STOP, {"a": 1}))),
        "reply-choice": encoded(Reply(ADDRESS, chosen, usage, FULL_TIMING)),
        "reply-scored": encoded(Reply(ADDRESS, scored, usage, FULL_TIMING)),
        "reply-written": encoded(Reply(ADDRESS, written, usage, FULL_TIMING)),
        "reply-questions": encoded(Reply(ADDRESS, told, usage, FULL_TIMING)),
        "reply-choice-cut": encoded(Reply(ADDRESS, cut, usage, FULL_TIMING)),
        "reply-duplicate": encoded(Reply(ADDRESS, answer, attempt=2, is_duplicate=True), -3.0),
        "reply-session": encoded(
            Reply(ADDRESS, answer, usage, FULL_TIMING, SessionState("table:1", 2, 0)), 7.2
        ),
        "reply-cancel": encoded(Reply(ADDRESS, CancelOutcome(is_found=False))),
        "reply-correct": encoded(Reply(ADDRESS, CorrectionOutcome(12))),
        "reply-queue-full": encoded(Reply(ADDRESS, full), 1.0),
        "reply-timeout": encoded(Reply(bare, late), 0.0),
        "fragment": encode_fragment(TOPICS, "a1", 3, " Ünïcode\n"),
        "fragment-done": encode_fragment(TOPICS, "a1", 4, "", is_done=True),
        "info": encode_info(TOPICS, {"edged": "0.1.0", "limits": {"max_payload_bytes": 16384}}),
        "state": encode_state(TOPICS, {"state": "ready", "decode_tok_s": float("inf")}),
        "event": encode_event(TOPICS, "dropped", {"reason": "retained"}),
    }


def test_there_is_a_golden_file_for_every_kind_of_message_that_is_sent() -> None:
    assert {path.stem for path in SENT} == set(sent_messages())


@pytest.mark.parametrize("path", SENT, ids=lambda path: path.stem)
def test_a_message_is_encoded_to_its_golden_file(path: Path) -> None:
    message, golden = sent_messages()[path.stem], json.loads(path.read_text())
    assert message.topic == golden["topic"]
    assert plain(message.properties) == golden["properties"]
    assert message.payload.decode() == golden["payload"]


@pytest.mark.parametrize("path", SENT, ids=lambda path: path.stem)
def test_a_client_survives_every_truncation_of_what_is_sent(path: Path) -> None:
    payload = json.loads(path.read_text())["payload"].encode()
    for end in range(len(payload)):
        assert decode_reply(payload[:end]) is None
        assert decode_fragment(payload[:end]) is None


def write_golden() -> None:
    for path in REQUESTS:
        golden = json.loads(path.read_text()) | {"decoded": plain(decode_golden(path))}
        path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
    for name, message in sent_messages().items():
        text = {
            "topic": message.topic,
            "payload": message.payload.decode(),
            "properties": plain(message.properties),
        }
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_golden()
