"""MQTT discovery for Home Assistant: one retained message that announces the node as a device.

Source: "Device discovery payload" in the documentation of Home Assistant's MQTT integration, since
2024.11; ``tests/data/homeassistant`` has its JSON Schema.

Rule: the entities show what a node publishes anyway, and their questions are ordinary requests.
"""

import logging
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import edged
from edged.protocol.encode import to_json
from edged.protocol.wire import Delivery, Encoded, Publisher, Topics, WireProperties

_LOG = logging.getLogger(__name__)

# Characters that a state in Home Assistant can have; the whole answer is an attribute.
MAX_STATE_LENGTH = 255
# Home Assistant's birth message.
STATUS_ONLINE = b"online"
# Its start is answered after a random part of this, not by a whole fleet at once.
MAX_DELAY_S = 3.0
# Whoever may publish its birth message can say that it has started: it is answered once in this
# time. The announcement is retained, so Home Assistant has it in any case.
MIN_INTERVAL_S = 30.0
_STATES = ["loading", "ready", "degraded", "stopping"]
_TRIALS = ["none", "running", "passed", "failed"]
_ANSWER = "value_json.data.text if value_json.status == 'ok' else value_json.error.message"
_ATTRIBUTES = (
    "{{ {'answer': value_json.data.text | default(''), 'status': value_json.status,"
    " 'code': (value_json.error | default({})).code | default(none),"
    " 'finish_reason': value_json.data.finish_reason | default(none),"
    " 'total_ms': (value_json.timing | default({})).total_ms | default(none)} | tojson }}"
)


def _sensor(
    name: str, unit: str | None = None, device_class: str | None = None, **more: object
) -> dict[str, Any]:
    """Describe a sensor, by default a measured number on the diagnostic page; None is not sent."""
    members = {
        "p": "sensor",
        "name": name,
        "unit_of_measurement": unit,
        "device_class": device_class,
        "state_class": "measurement",
        "entity_category": "diagnostic",
    }
    return {key: value for key, value in (members | more).items() if value is not None}


_MIB = 1024 * 1024
_OFF: dict[str, Any] = {"enabled_by_default": False}
_MAIN: dict[str, Any] = {"entity_category": None}
_TEXT: dict[str, Any] = {"state_class": None}
_TOTAL: dict[str, Any] = {"state_class": "total_increasing"}
# By members of ``state``.
_SENSORS = {
    "state": _sensor("State", None, "enum", options=_STATES, **_TEXT, **_MAIN),
    "queue": _sensor("Waiting", icon="mdi:tray-full", **_MAIN),
    "running": _sensor("Answering", icon="mdi:head-dots-horizontal", **_MAIN),
    "ttft_p50_s": _sensor("Time to first token", "s", "duration", suggested_display_precision=2),
    "ttft_p95_s": _sensor(
        "Time to first token, 95 %", "s", "duration", suggested_display_precision=2
    ),
    "decode_tok_s": _sensor(
        "Speed", "tok/s", icon="mdi:speedometer", suggested_display_precision=1
    ),
    "rss_bytes": _sensor("Memory", "MiB", "data_size"),
    "available_bytes": _sensor("Memory available", "MiB", "data_size", **_OFF),
    "budget_bytes": _sensor("Memory budget", "MiB", "data_size"),
    "served": _sensor("Served", icon="mdi:check", **_TOTAL),
    "refused": _sensor("Refused", icon="mdi:close", **_TOTAL),
    "expired": _sensor("Expired", icon="mdi:timer-off", **_TOTAL, **_OFF),
    "cancelled": _sensor("Cancelled", icon="mdi:cancel", **_TOTAL, **_OFF),
    "dropped": _sensor("Dropped", icon="mdi:delete", **_TOTAL, **_OFF),
    "trial": _sensor("Model on trial", None, "enum", options=_TRIALS, **_TEXT),
    "uptime_s": _sensor("Uptime", "s", "duration", **_OFF),
}
# Where there are specialists; shares, shown in percent.
_DECISIONS = {
    "unsure_share": _sensor("Unsure answers", "%", icon="mdi:help-circle"),
    "agreement_share": _sensor("Agreement with corrections", "%", icon="mdi:account-check"),
}


def status_topic(prefix: str) -> str:
    """Name the topic on which Home Assistant publishes its start."""
    return f"{prefix}/status"


@dataclass(frozen=True, slots=True)
class Announcement:
    """The announcement of a node."""

    topics: Topics
    prefix: str
    """Home Assistant's discovery prefix."""
    user: str
    """Home Assistant's account at the broker."""
    model: str
    can_ask: bool
    has_specialists: bool = False

    @property
    def device(self) -> str:
        """The identifier of the device: part of the topic and of every unique id."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"{self.topics.prefix}_{self.topics.node}")

    @property
    def topic(self) -> str:
        """The topic of the retained announcement."""
        return f"{self.prefix}/device/{self.device}/config"

    @property
    def reply_topic(self) -> str:
        """The topic of the answers to the entities' questions."""
        return self.topics.client(self.user).response("generate/entities")

    def message(self) -> Encoded:
        """Return the message that announces the device; to be retained."""
        members = {
            "dev": {
                "ids": [self.device],
                "name": f"edged {self.topics.node}",
                "mf": "edged",
                "mdl": self.model,
                "sw": edged.__version__,
            },
            "o": {"name": "edged", "sw": edged.__version__},
            "availability": [{"topic": self.topics.availability}],
            "qos": 1,
            "cmps": self._components(),
        }
        return Encoded(self.topic, to_json(members), WireProperties())

    def _components(self) -> dict[str, Any]:
        shown = {member: self._shown(member, sensor) for member, sensor in _SENSORS.items()}
        shown["model"] = self._shown("model", _sensor("Model", icon="mdi:brain", **_TEXT)) | {
            "state_topic": self.topics.info,
            "value_template": "{{ value_json.model.id }}",
        }
        decisions = {member: self._shown(member, sensor) for member, sensor in _DECISIONS.items()}
        shown |= decisions if self.has_specialists else _removed(decisions)
        asking = self._asking()
        return shown | (asking if self.can_ask else _removed(asking))

    def _shown(self, member: str, sensor: dict[str, Any]) -> dict[str, Any]:
        value = f"value_json.{member}"
        if member == "trial":
            value = f"({value} or {{}}).status | default('none')"
        if sensor.get("unit_of_measurement") == "MiB":
            value = f"({value} / {_MIB}) | round(1)"
        if sensor.get("unit_of_measurement") == "%":  # null before the first answer
            value = f"({value} * 100) | round(1) if {value} is number else none"
        return {
            **sensor,
            "unique_id": f"{self.device}_{member}",
            "state_topic": self.topics.state,
            "value_template": f"{{{{ {value} }}}}",
        }

    def _asking(self) -> dict[str, Any]:
        # A slow device gives a shorter answer rather than none.
        request = (
            f"{{'prompt': value, 'on_deadline': 'shorten', 'response_topic': {self.reply_topic!r}}}"
        )
        asking = {
            "icon": "mdi:message-question",
            "command_topic": self.topics.client(self.user).request("generate"),
            "command_template": f"{{{{ {request} | tojson }}}}",
            "retain": False,
        }
        ask = {"p": "notify", "unique_id": f"{self.device}_ask", "name": "Ask"}
        question = {"p": "text", "unique_id": f"{self.device}_question", "name": "Question"}
        sensor = _sensor("Last answer", icon="mdi:message-text", **_TEXT, **_MAIN)
        answer = self._shown("answer", sensor) | {
            "state_topic": self.reply_topic,
            "value_template": f"{{{{ ({_ANSWER})[:{MAX_STATE_LENGTH}] }}}}",
            "json_attributes_topic": self.reply_topic,
            "json_attributes_template": _ATTRIBUTES,
            "force_update": True,
        }
        return {
            "ask": ask | asking,
            "question": question | asking | {"min": 1, "max": MAX_STATE_LENGTH},
            "answer": answer,
        }


def _removed(components: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    # Home Assistant removes a component that has nothing but its platform.
    return {name: {"p": component["p"]} for name, component in components.items()}


class Discovery:
    """Keep a node announced; or, if it is off, remove an earlier announcement once."""

    def __init__(
        self,
        announcement: Announcement,
        publisher: Publisher,
        clock: Callable[[], float],
        *,
        is_on: bool,
    ) -> None:
        self._announcement = announcement
        self._publisher = publisher
        self._clock = clock
        self._is_on = is_on
        self._is_removed = False
        self.due_s = float("inf")
        """When ``tick`` will announce again."""
        self._earliest_s = float("-inf")
        self._random = random.SystemRandom()

    def announce(self) -> None:
        """Publish the announcement, or remove it."""
        self.due_s = float("inf")
        if self._is_on:
            self._publisher.publish(self._announcement.message(), qos=1, retain=True)
        elif not self._is_removed:
            self._is_removed = True
            removal = Encoded(self._announcement.topic, b"", WireProperties())
            self._publisher.publish(removal, qos=1, retain=True)

    def take(self, delivery: Delivery) -> None:
        """Handle Home Assistant's status: when it has started, it needs the announcement again."""
        self._publisher.acknowledge(delivery)
        is_start = delivery.payload == STATUS_ONLINE and self._is_on
        if is_start and self.due_s == float("inf"):
            due_s = self._clock() + self._random.uniform(0, MAX_DELAY_S)
            self.due_s = max(due_s, self._earliest_s)

    def tick(self) -> bool:
        """Announce again if it is time; return whether it was."""
        now_s = self._clock()
        is_due = now_s >= self.due_s
        if is_due:
            _LOG.info("Home Assistant has started; the node is announced again")
            self._earliest_s = now_s + MIN_INTERVAL_S
            self.announce()
        return is_due
