# ruff: noqa: RUF009 - the calls in the defaults make fields, not values
"""Every setting, declared once: kind, default and meaning.

Rule: the name of a key in YAML is the field's name without its unit (``timeout_s`` is written
``timeout``); inside the program there are only SI units. A new key needs nothing but its line here
(and a run of ``scripts/make-config-reference``).
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from edged.config import kinds
from edged.config.declare import about, optional, setting
from edged.protocol.topic import refuse_prefix, refuse_topic

_LEVEL = kinds.text("1 to 32 of a-z, 0-9 and -", r"[a-z0-9-]{1,32}")
_DISCOVERY = kinds.text(
    "a topic of a-z, A-Z, 0-9, _, - and /, not starting or ending with /, of at most 8 levels",
    r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,7}",
    64,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsConfig:
    """Dialogues that the node holds, in memory only, so that a request brings just what is new."""

    count: int = setting(
        kinds.integer(0, 256),
        8,
        "Dialogues held; a new one takes the place of the one that was idle longest. 0 refuses "
        "requests with a `session`.",
    )
    max_tokens: int = setting(
        kinds.integer(64, 131072),
        1536,
        "Longest prompt of a dialogue, in tokens: above it (or above what the context has left "
        "beside the answer) the oldest turns are forgotten.",
    )
    idle_s: float = setting(
        kinds.duration(1, 7 * 86400), 1800.0, "A dialogue is forgotten after this long."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """Several nodes that share requests, through the broker's shared subscriptions."""

    name: str | None = optional(
        _LEVEL,
        "Group to take requests of: `prefix`/group/`name`/request/generate; each goes to one node.",
        note="none",
    )
    receive_maximum: int = setting(
        kinds.integer(1, 2),
        2,
        "Requests of the group that the broker may hand to this node before it has answered.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAssistantConfig:
    """Home Assistant finds the node by itself."""

    discovery: bool = setting(
        kinds.flag(),
        default=True,
        doc="Announce the node by MQTT discovery; false takes an earlier announcement back.",
    )
    prefix: str = setting(
        _DISCOVERY, "homeassistant", "Home Assistant's discovery prefix; never a reply topic."
    )
    ask: bool = setting(
        kinds.flag(),
        default=False,
        doc="Announce entities to ask the node, and a sensor that holds the last answer to them: "
        "everybody who can use Home Assistant can ask then.",
    )


PROMPT = kinds.text("text of at most 8192 characters", r"(?s)[^\x00]+", 8192)
MAX_TUNED_CHUNK_TOKENS = 256
"""Largest ``prefill_chunk_tokens`` that is tried when none is given; memory is planned for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model, and how it is run."""

    path: Path = field(
        metadata=about(kinds.path(), "Folder of the model bundle, as made by `edged build`.")
    )
    max_model_len: int = setting(
        kinds.integer(64, 131072),
        2048,
        "Context: tokens of prompt and answer together. Memory for it is reserved at start. "
        "The bundle's own limit holds where it is smaller.",
    )
    num_threads: int | None = optional(
        kinds.integer(1, 64),
        "Threads that compute.",
        note="from the CPUs and the CPU quota given to the process",
    )
    num_slots: int | None = optional(
        kinds.integer(1, 16),
        "Answers made at the same time; each has memory for a context of its own.",
        note="as many as `budget.memory` has room for, up to 4",
    )
    warm_prompts: tuple[str, ...] = setting(
        kinds.text_list(PROMPT),
        (),
        "System prompts, beside `request.system_prompt`, whose keys and values are kept ready: in "
        "memory, and in `state.folder` for the first request after a boot.",
    )
    prefill_chunk_tokens: int | None = optional(
        kinds.integer(8, 4096),
        "Prompt tokens computed in one piece; a deadline is seen between two pieces.",
        note="the fastest that take 0.1 s at most, measured at the first start and kept in "
        "`state.folder`; without one, 64",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """What is measured, and written for others to collect."""

    prometheus_file: Path | None = optional(
        kinds.path(),
        "Text file with all figures, rewritten with each `state`, for node_exporter's textfile "
        "collector. Its name must end in `.prom`.",
    )
    watts_per_thread: float | None = optional(
        kinds.number(0, 1000),
        "What one busy thread draws beyond idle, in watts. Where the processor has no energy "
        "counter, `usage.energy_j` is reckoned with it and labelled `model`.",
    )


_NODE = kinds.text("1 to 32 of a-z, 0-9 and -", r"[a-z0-9-]{1,32}")
_HOST = kinds.text("a host name or an address", r"[^\s/@\x00-\x1f]+")
_PREFIX = kinds.topic(
    "a topic without + and #, not starting with $ or ending with /, of at most 64 bytes and 8 "
    "levels, without control characters",
    refuse_prefix,
)
_BEGINNING = kinds.topic(
    "the beginning of a topic, without + and #, not starting with $, of less than 256 bytes and at "
    "most 16 levels, without control characters",
    lambda value: "it is empty" if not value else refuse_topic(f"{value}x"),
)


class ProtocolChoice(StrEnum):
    """MQTT version to speak."""

    AUTO = "auto"
    V5 = "5"
    V311 = "3.1.1"


class LogLevel(StrEnum):
    """Least severe message to log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Shape of a log line."""

    AUTO = "auto"
    PLAIN = "plain"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Where the MQTT broker is, and how to talk to it."""

    host: str = setting(_HOST, "localhost", "Host name or address of the MQTT broker.")
    port: int = setting(kinds.integer(1, 65535), 1883, "Its port.", note="1883, with `tls` 8883")
    username: str | None = optional(kinds.text(), "User name at the broker.")
    password_file: Path | None = optional(
        kinds.path(), "File whose first line is the password. Prefer it to `password`."
    )
    password: str | None = optional(
        kinds.text(),
        "Password at the broker, readable by all who can read this file.",
        is_secret=True,
    )
    tls: bool = setting(
        kinds.flag(), default=False, doc="Encrypt the connection (TLS 1.2 or later)."
    )
    ca_file: Path | None = optional(
        kinds.path(),
        "Certificate authority (PEM) that signed the broker's certificate; needs `tls`.",
        note="the system's authorities",
    )
    keepalive_s: float = setting(
        kinds.duration(5, 3600), 30.0, "Longest silence before the connection is tested."
    )
    client_id: str | None = optional(
        kinds.text(max_length=64),
        "MQTT client identifier; unique at the broker.",
        note="edged-`node`",
    )
    protocol: ProtocolChoice = setting(
        kinds.choice(ProtocolChoice),
        ProtocolChoice.AUTO,
        "MQTT version; `auto` tries 5 and falls back to 3.1.1.",
    )
    session_expiry_s: float = setting(
        kinds.duration(0, 30 * 86400),
        3600.0,
        "How long the broker keeps requests for a node that is away (MQTT 5).",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """What edged may take of the device."""

    memory_bytes: int | None = optional(
        kinds.size(32 * 1024**2, 1024**4),
        "Resident memory edged may use in all. A model that does not fit stops the start; "
        "a request that does not fit is refused with `memory_pressure`.",
        note="the smaller of 90 % of the kernel's limit and 80 % of the free memory at start",
    )
    min_available_bytes: int = setting(
        kinds.size(0, 1024**4),
        64 * 1024**2,
        "Memory that must stay available on the device for everybody else.",
    )
    max_temperature_c: float | None = optional(
        kinds.number(20, 120),
        "Temperature of the hottest zone, in °C, from which on new background requests are refused "
        "until it is 5 °C cooler.",
    )
    min_battery: float | None = optional(
        kinds.number(0, 1),
        "Charge of the battery, 0 to 1, below which new background requests are refused while the "
        "device does not run on mains.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestConfig:
    """Defaults and limits of requests."""

    timeout_s: float = setting(
        kinds.duration(0.1, 86400), 30.0, "Deadline of a request that names none."
    )
    max_timeout_s: float = setting(
        kinds.duration(0.1, 86400),
        300.0,
        "Longest deadline a request can ask for; longer ones are cut.",
    )
    max_tokens: int = setting(
        kinds.integer(1, 131072), 128, "Tokens generated for a request that names no `max_tokens`."
    )
    max_payload_bytes: int = setting(
        kinds.size(256, 1024**2), 16 * 1024, "Largest request; a larger one is `payload_too_large`."
    )
    system_prompt: str | None = optional(
        PROMPT, "System message of a request that brings none.", note="the model's own"
    )
    allow_system: bool = setting(
        kinds.flag(), default=True, doc="Whether a request may bring its own system message."
    )
    reply_prefixes: tuple[str, ...] = setting(
        kinds.text_list(_BEGINNING),
        ("edged/", "reply/"),
        "A request may choose its reply topic only below these.",
        note="[`prefix`/, reply/]",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Requests that wait."""

    size: int = setting(
        kinds.integer(1, 256),
        8,
        "Requests that may wait; the next one is refused with `queue_full`.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """How edged tells how it is, and what it remembers."""

    interval_s: float = setting(
        kinds.duration(1, 3600),
        30.0,
        "Time between two `state` messages; a change is sent at once.",
    )
    folder: Path | None = optional(
        kinds.path(),
        "Folder for what must outlive a crash: which request was being answered. One that ended "
        "the process twice is refused with `crashed_before` instead of being tried for ever. The "
        "copy of the model that is prepared for this device is here too, twice the model's size; "
        "without a folder it is made beside the model.",
    )
    file: Path | None = optional(
        kinds.path(), "JSON file rewritten with each `state`; `edged health` reads it."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What is logged; never a prompt or an answer."""

    level: LogLevel = setting(kinds.choice(LogLevel), LogLevel.INFO, "Least severe message to log.")
    format: LogFormat = setting(
        kinds.choice(LogFormat),
        LogFormat.AUTO,
        "`journal` puts the severity before each line for journald, `plain` the time; "
        "`auto` finds out which is wanted.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration: the sections, and the keys outside them."""

    node: str = setting(_NODE, "edged", "Name of this device in every topic.", note="the host name")
    prefix: str = setting(_PREFIX, "edged", "First part of every topic.")
    model: ModelConfig
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    request: RequestConfig = field(default_factory=RequestConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    sessions: SessionsConfig = field(default_factory=SessionsConfig)
    group: GroupConfig = field(default_factory=GroupConfig)
    homeassistant: HomeAssistantConfig = field(default_factory=HomeAssistantConfig)
    state: StateConfig = field(default_factory=StateConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def client_id(self) -> str:
        """MQTT client identifier: the configured one, or one made of the node's name."""
        return self.broker.client_id or f"edged-{self.node}"


def node_name_of(host_name: str) -> str:
    """Make a node name of a host name: its first label, lowercased, other characters as ``-``."""
    label = host_name.partition(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", label).strip("-")[:32].strip("-") or "edged"
