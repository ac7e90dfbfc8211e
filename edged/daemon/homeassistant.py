"""MQTT discovery for Home Assistant: one retained message that announces the node as a device.

Source: "Device discovery payload" in the documentation of Home Assistant's MQTT integration, since
2024.11; ``tests/data/homeassistant`` has its JSON Schema.

Rule: the entities show what a node publishes anyway, and their questions are ordinary requests.
"""

import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import edged
from edged.protocol.encode import to_json
from edged.protocol.wire import Delivery, Encoded, Publisher, Topics, WireProperties

_LOG = logging.getLogger(__name__)

# Characters that a state in Home Assistant can have; the whole answer is an attribute.
MAX_STATE_LENGTH = 255
# Last level of the reply topic of what the entities ask; the user name in the shipped ACL.
CLIENT = "ha"
# Home Assistant's birth message.
STATUS_ONLINE = b"online"
# Its start is answered after a random part of this, not by a whole fleet at once.
MAX_DELAY_S = 3.0
_STATES = ["loading", "ready", "degraded", "stopping"]
_ANSWER = "value_json.data.text if value_json.status == 'ok' else value_json.error.message"
_ATTRIBUTES = (
    "{{ {'answer': value_json.data.text | default(''), 'status': value_json.status,"
    " 'code': (value_json.error | default({})).code | default(none),"
    " 'finish_reason': value_json.data.finish_reason | default(none),"
    " 'total_ms': (value_json.timing | default({})).total_ms | default(none)} | tojson }}"
)


@dataclass(frozen=True, slots=True)
class _Sensor:
    """An entity that shows a member of ``state``; None is not sent."""

    name: str
    unit: str | None = None
    device_class: str | None = None
    state_class: str | None = "measurement"
    precision: int | None = None
    icon: str | None = None
    is_diagnostic: bool = True
    is_enabled: bool = True

    def component(self) -> dict[str, Any]:
        members = {
            "p": "sensor",
            "name": self.name,
            "unit_of_measurement": self.unit,
            "device_class": self.device_class,
            "state_class": self.state_class,
            "suggested_display_precision": self.precision,
            "icon": self.icon,
            "entity_category": "diagnostic" if self.is_diagnostic else None,
            "enabled_by_default": None if self.is_enabled else False,
        }
        return {key: value for key, value in members.items() if value is not None}


_MIB = 1024 * 1024
_TOTAL = "total_increasing"
_SENSORS = {
    "state": _Sensor("State", None, "enum", None, is_diagnostic=False),
    "queue": _Sensor("Waiting", icon="mdi:tray-full", is_diagnostic=False),
    "running": _Sensor("Answering", icon="mdi:head-dots-horizontal", is_diagnostic=False),
    "ttft_p50_s": _Sensor("Time to first token", "s", "duration", precision=2),
    "ttft_p95_s": _Sensor("Time to first token, 95 %", "s", "duration", precision=2),
    "decode_tok_s": _Sensor("Speed", "tok/s", precision=1, icon="mdi:speedometer"),
    "rss_bytes": _Sensor("Memory", "MiB", "data_size"),
    "available_bytes": _Sensor("Memory available", "MiB", "data_size", is_enabled=False),
    "budget_bytes": _Sensor("Memory budget", "MiB", "data_size"),
    "served": _Sensor("Served", state_class=_TOTAL, icon="mdi:check"),
    "refused": _Sensor("Refused", state_class=_TOTAL, icon="mdi:close"),
    "expired": _Sensor("Expired", state_class=_TOTAL, icon="mdi:timer-off", is_enabled=False),
    "cancelled": _Sensor("Cancelled", state_class=_TOTAL, icon="mdi:cancel", is_enabled=False),
    "dropped": _Sensor("Dropped", state_class=_TOTAL, icon="mdi:delete", is_enabled=False),
    "uptime_s": _Sensor("Uptime", "s", "duration", is_enabled=False),
}


@dataclass(frozen=True, slots=True)
class Announcement:
    """The announcement of a node."""

    topics: Topics
    prefix: str
    """Home Assistant's discovery prefix."""
    model: str
    can_ask: bool

    @property
    def device(self) -> str:
        """The identifier of the device: part of the topic and of every unique id."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"{self.topics.prefix}_{self.topics.node}")

    @property
    def topic(self) -> str:
        """The topic of the retained announcement."""
        return f"{self.prefix}/device/{self.device}/config"

    @property
    def status_topic(self) -> str:
        """The topic on which Home Assistant publishes its start."""
        return f"{self.prefix}/status"

    @property
    def reply_topic(self) -> str:
        """The topic of the answers to the entities' questions."""
        return f"{self.topics.response('generate')}/{CLIENT}"

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

    def removal(self) -> Encoded:
        """Return the message that removes the announcement; to be retained, too."""
        return Encoded(self.topic, b"", WireProperties())

    def _components(self) -> dict[str, Any]:
        components = {member: self._sensor(member, sensor) for member, sensor in _SENSORS.items()}
        components["state"]["options"] = _STATES
        components["model"] = self._sensor(
            "model",
            _Sensor("Model", state_class=None, icon="mdi:brain"),
            state_topic=self.topics.info,
            value_template="{{ value_json.model.id }}",
        )
        asking = self._asking()
        # Home Assistant removes a component that has nothing but its platform.
        return components | {k: v if self.can_ask else {"p": v["p"]} for k, v in asking.items()}

    def _sensor(self, member: str, sensor: _Sensor, **more: object) -> dict[str, Any]:
        value = f"value_json.{member}"
        if sensor.unit == "MiB":
            value = f"({value} / {_MIB}) | round(1)"
        return {
            **sensor.component(),
            "unique_id": f"{self.device}_{member}",
            "state_topic": self.topics.state,
            "value_template": f"{{{{ {value} }}}}",
            **more,
        }

    def _asking(self) -> dict[str, Any]:
        request = f"{{'prompt': value, 'response_topic': {self.reply_topic!r}}}"
        asking = {
            "icon": "mdi:message-question",
            "command_topic": self.topics.request("generate"),
            "command_template": f"{{{{ {request} | tojson }}}}",
            "retain": False,
        }
        ask = {"p": "notify", "unique_id": f"{self.device}_ask", "name": "Ask"}
        question = {"p": "text", "unique_id": f"{self.device}_question", "name": "Question"}
        answer = self._sensor(
            "answer",
            _Sensor("Last answer", state_class=None, icon="mdi:message-text", is_diagnostic=False),
            state_topic=self.reply_topic,
            value_template=f"{{{{ ({_ANSWER})[:{MAX_STATE_LENGTH}] }}}}",
            json_attributes_topic=self.reply_topic,
            json_attributes_template=_ATTRIBUTES,
            force_update=True,
        )
        return {
            "ask": ask | asking,
            "question": question | asking | {"min": 1, "max": MAX_STATE_LENGTH},
            "answer": answer,
        }


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
        self._due_s = float("inf")
        self._random = random.SystemRandom()

    def announce(self) -> None:
        """Publish the announcement, or remove it."""
        self._due_s = float("inf")
        if self._is_on:
            self._publisher.publish(self._announcement.message(), qos=1, retain=True)
        elif not self._is_removed:
            self._is_removed = True
            self._publisher.publish(self._announcement.removal(), qos=1, retain=True)

    def take(self, delivery: Delivery) -> None:
        """Handle Home Assistant's status: when it has started, it needs the announcement again."""
        self._publisher.acknowledge(delivery)
        if delivery.payload == STATUS_ONLINE and self._is_on:
            _LOG.info("Home Assistant has started; the node is announced again")
            self._due_s = self._clock() + self._random.uniform(0, MAX_DELAY_S)

    def next_tick_s(self) -> float:
        """Return when ``tick`` will announce again."""
        return self._due_s

    def tick(self) -> bool:
        """Announce again if it is time; return whether it was."""
        is_due = self._clock() >= self._due_s
        if is_due:
            self.announce()
        return is_due
