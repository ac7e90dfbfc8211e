"""A minimal node that gets one thing of the protocol wrong."""

import json
import queue
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.system.broker.peer import stop, without_delay
from tests.system.broker.wire_ends import WAIT_S

ROOT = "edged/wrong"
PLAIN = "prompts: a question in JSON is answered"
STREAM = "streams: a short answer"
CHOICE = "formats: one of two choices is the answer"
DECIDED = "decisions: a specialist decides and writes no token"
LABEL = "decisions: a decision for one label has its index and all probabilities"
TOLD = "events: a request whose reply topic is not allowed is told"
FORBIDDEN = "reply_topics_of_anyone: a topic below no allowed prefix"
# The fault, the case that must detect it, and the line in the table.
FAULTS = [
    ("no correlation data", PLAIN, "property correlation_data: expected b'"),
    ("twice", PLAIN, "2 replies came, expected exactly one"),
    ("late copy", PLAIN, "another reply came after the end of the case"),
    ("no reply", PLAIN, "no reply came on edged/wrong/response/generate/"),
    ("dead", PLAIN, "the node stopped answering"),
    ("not JSON", PLAIN, "the reply is not a JSON object: b'hello'"),
    ("another id", PLAIN, "id: expected"),
    ("another node", PLAIN, 'node: expected "wrong", got "other"'),
    ("no status property", PLAIN, "user property status: expected 200"),
    ("no expiry", PLAIN, "property message_expiry: expected at least 1 s"),
    ("retained", PLAIN, "the reply is retained"),
    ("QoS 0", PLAIN, "the reply came with QoS 0"),
    ("unknown finish reason", PLAIN, 'got "done"'),
    ("unknown code", PLAIN, 'error.code: expected one of ["bad_request"'),
    ("refuses", PLAIN, "expected ok, got queue_full (busy)"),
    ("fragments", PLAIN, "1 unexpected fragments came"),
    ("no fragments", STREAM, "stream: no fragment came"),
    ("gap", STREAM, "fragment 1: seq: expected 1, got 2"),
    ("other text", STREAM, "stream: the fragments make 'hell'"),
    ("answers anybody", FORBIDDEN, "expected no reply, got ok"),
    ("answers elsewhere", FORBIDDEN, "expected no reply, got ok"),
    ("retained fragments", STREAM, "stream: a fragment is retained"),
    ("cut choice with words", CHOICE, 'data.text: expected "", got "yes"'),
    ("another's index", CHOICE, 'data.text: expected "no", got "yes"'),
    ("no index", CHOICE, "data: expected the keys"),
    ("writes tokens", DECIDED, "usage.completion_tokens: expected 0, got 1"),
    ("confidence above 1", DECIDED, "data.confidence: expected 0 to 1, got 1.5"),
    ("decides by another", DECIDED, 'data.specialist: expected "washer", got "other"'),
    ("index without a probability", LABEL, "data.choice: expected 0 to 1, got 2"),
    ("no state", "node: state has a state", "nothing is retained at edged/wrong/state"),
    ("tells nobody", TOLD, "no event came with {'v': 1"),
]
ACCOUNT_FAULTS = [
    (
        "any reply topic",
        "accounts: the topic of a device",
        "no reply came on edged/wrong/client/me/response/generate",
    ),
    (
        "cancels another's",
        "accounts: a request of another is not cancelled",
        "data.found: expected false, got true",
    ),
]
_ERRORS: dict[str, dict[str, Any]] = {
    "refuses": {"code": "queue_full", "status": 429, "message": "busy", "retryable": True},
    "unknown code": {"code": "tired", "status": 429, "message": "busy", "retryable": True},
    "wrong topic": {
        "code": "bad_request",
        "status": 400,
        "retryable": False,
        "message": "response_topic: is not yours",
    },
}


class WrongNode:
    """A node named ``wrong``, on bare paho over MQTT 5; ``fault`` is one of those above or none."""

    def __init__(self, port: int, fault: str) -> None:
        self._fault = fault
        self._num_dropped = 0
        self._ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_socket_open = without_delay
        self._client.on_message = lambda _c, _u, message: self._answer(message)
        self._client.on_subscribe = lambda *_: self._ready.put(1)
        self._client.connect("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        online = "offline" if self._fault == "offline" else "online"
        info: Any = {"operations": ["generate"], "formats": ["text", "choice"]}
        info["limits"] = {"max_timeout_ms": 60_000}
        if self._fault != "no cancel":
            info["operations"].append("cancel")
            info["formats"].append("json_schema")
            info["limits"]["max_tokens"] = 8
        info["specialists"] = [{"name": "washer", "kind": "label", "labels": ["dry", "leak"]}]
        info["identity"] = "required" if self._fault == "accounts only" else "optional"
        info = "hello" if self._fault == "no info" else info
        state = {"v": 1, "node": "wrong", "state": "ready"}
        self._client.publish(f"{ROOT}/availability", online, 1, retain=True)
        self._client.publish(f"{ROOT}/info", json.dumps(info), 1, retain=True)
        if self._fault != "no state":
            self._client.publish(f"{ROOT}/state", json.dumps(state), 1, retain=True)
        self._client.subscribe([(f"{ROOT}/request/+", 1), (f"{ROOT}/client/+/request/+", 1)])
        self._ready.get(timeout=WAIT_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stop(self._client)

    def _answer(self, message: mqtt.MQTTMessage) -> None:
        request = json.loads(message.payload)
        asked: Any = message.properties
        client, _, operation = message.topic.rpartition("/request/")
        default = f"{client}/response/{operation}"
        topic = getattr(asked, "ResponseTopic", request.get("response_topic", default))
        is_own = client == ROOT or topic.startswith(f"{client}/response/")
        is_wrong_topic = not is_own and self._fault != "any reply topic"
        topic = default if is_wrong_topic else topic
        is_marker = "marker" in topic
        fault = "none" if is_marker else "wrong topic" if is_wrong_topic else self._fault
        if self._fault == "dead" or fault == "no reply":
            return
        if not topic.startswith(ROOT) and not fault.startswith("answers"):
            self._tell_dropped()
            return
        if fault == "answers elsewhere":
            topic = f"{ROOT}/response/generate"
        if request.get("stream") is True or fault == "fragments":
            self._stream(request["id"], fault)
        reply = self._reply(request, message.topic, fault)
        payload = b"hello" if fault == "not JSON" else json.dumps(reply).encode()
        wire = self._properties(getattr(asked, "CorrelationData", None), fault)
        qos, is_retained = int(fault != "QoS 0"), fault == "retained"
        if is_marker and self._fault == "late copy":
            self._publish_late_copy(topic, payload, wire)
            return
        for _ in range(2 if fault == "twice" else 1):
            self._client.publish(topic, payload, qos, is_retained, wire)
        self._last = (topic, payload, wire)

    def _tell_dropped(self) -> None:
        """Publish every second drop, as a rate-limited node does."""
        self._num_dropped += 1
        if self._num_dropped % 2 == 0 and self._fault != "tells nobody":
            event = {"v": 1, "node": "wrong", "event": "dropped", "reason": "forbidden_topic"}
            self._client.publish(f"{ROOT}/event", json.dumps(event | {"detail": "no"}), 1)

    def _publish_late_copy(self, topic: str, payload: bytes, wire: Properties) -> None:
        """Send the case's reply again, so late that only a later case can see it."""
        self._client.publish(topic, payload, 1, properties=wire)
        first_topic, first_payload, first_wire = self._last
        self._client.publish(first_topic, first_payload, 1, properties=first_wire)

    def _stream(self, request_id: str, fault: str) -> None:
        deltas = [] if fault == "no fragments" else ["hell", "" if fault == "other text" else "o"]
        if fault == "fragments":
            deltas = ["hello"]
        for number, delta in enumerate(deltas):
            members = {
                "id": request_id,
                "seq": number * 2 if fault == "gap" else number,
                "delta": delta,
                "done": number == len(deltas) - 1,
            }
            topic, is_retained = f"{ROOT}/stream/{request_id}", fault == "retained fragments"
            self._client.publish(topic, json.dumps(members), 0, retain=is_retained)

    def _reply(self, request: dict[str, Any], topic: str, fault: str) -> dict[str, Any]:
        members = {
            "v": 1,
            "id": "other" if fault == "another id" else request.get("id"),
            "node": "other" if fault == "another node" else "wrong",
            "status": "ok",
            "attempt": 1,
            "duplicate": False,
        }
        if fault in _ERRORS:
            error = _ERRORS[fault]
            return members | {"status": "error", "data": {}, "error": error}
        if topic.endswith("cancel"):
            is_found = "/client/me/" in topic or fault == "cancels another's"
            return members | {"data": {"found": is_found}}
        reason = "done" if fault == "unknown finish reason" else "stop"
        data: dict[str, Any] = {"text": "hello", "json": None, "finish_reason": reason}
        if "choices" in request.get("format", {}):
            index: Any = {"cut choice with words": None, "another's index": 1}.get(fault, 0)
            data |= {"text": request["format"]["choices"][0], "choice": index}
        if fault == "no index":
            del data["choice"]
        if "specialist" in request:
            data |= self._decision(fault)
        num_tokens = int("specialist" not in request or fault == "writes tokens")
        return members | {
            "data": data,
            "usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": num_tokens},
            "timing": dict.fromkeys(("queued_ms", "prefill_ms", "ttft_ms", "total_ms"), 1)
            | {"decode_ms": num_tokens},
            "model": "wrong",
        }

    def _decision(self, fault: str) -> dict[str, Any]:
        return {
            "text": "leak",
            "choice": 2 if fault == "index without a probability" else 1,
            "specialist": "other" if fault == "decides by another" else "washer",
            "confidence": 1.5 if fault == "confidence above 1" else 0.9,
            "probabilities": [0.1, 0.9],
        }

    def _properties(self, correlation_data: bytes | None, fault: str) -> Any:  # noqa: ANN401 - paho
        wire: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if correlation_data is not None and fault != "no correlation data":
            wire.CorrelationData = correlation_data
        wire.ContentType = "application/json"
        wire.PayloadFormatIndicator = 1
        if fault != "no expiry":
            wire.MessageExpiryInterval = 30
        if fault != "no status property":
            wire.UserProperty = [("status", str(_ERRORS.get(fault, {"status": 200})["status"]))]
        return wire
