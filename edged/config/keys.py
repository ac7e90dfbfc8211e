# ruff: noqa: RUF009 - the calls in the defaults make fields, not values
"""Every configuration key with its kind, default and meaning.

Rule: a key in YAML is the field's name without its unit (``timeout_s`` is written ``timeout``);
inside the program there are only SI units. A new key needs only its line and docstring here, and a
run of ``scripts/make-config-reference``.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from edged.config import kinds
from edged.config.declare import required, setting
from edged.protocol.topic import refuse_prefix, refuse_topic
from edged.protocol.wire import MAX_USER_BYTES, is_user

# Values of ``security.identity``.
IDENTITIES = IDENTITY_REQUIRED, IDENTITY_OPTIONAL = "required", "optional"
# Without NUL, as the texts of a request.
PROMPT = kinds.text("text of at most 8192 characters", r"(?s)[^\x00]+", 8192)
_NAME = kinds.text("1 to 32 of a-z, 0-9 and -", r"[a-z0-9-]{1,32}")
_NODE_OR_GROUP = kinds.text(
    "1 to 32 of a-z, 0-9 and -, of a group after group/", r"(group/)?[a-z0-9-]{1,32}"
)
_HOST = kinds.text("a host name or an address", r"[^\s/@\x00-\x1f]+")
_PREFIX = kinds.topic(
    "a topic without + and #, not starting with $ or ending with /, of at most 64 bytes and 8 "
    "levels, without control characters",
    refuse_prefix,
)
# A prefix is allowed when a topic that starts with it is; it may end with a slash.
_REPLY_PREFIX = kinds.topic(
    "the beginning of a topic, without + and #, not starting with $, of less than 256 bytes and at "
    "most 16 levels, without control characters",
    lambda value: "it is empty" if not value else refuse_topic(f"{value}x"),
)
_USER = kinds.topic(
    f"a user name of at most {MAX_USER_BYTES} bytes, without /, + and #",
    lambda value: None if is_user(value) else "it is no level of a topic",
)
_DISCOVERY = kinds.text(
    "a topic of a-z, A-Z, 0-9, _, - and /, not starting or ending with /, of at most 8 levels",
    r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,7}",
    64,
)
_WEIGHTS = kinds.number_of_each(
    _USER,
    kinds.number(0.1, 100),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The model and its execution."""

    path: Path = required(kinds.PATH, "Folder of the model bundle made by `edged build`.")
    max_model_len: int = setting(kinds.integer(64, 131072), 2048)
    """Context length in tokens, prompt and answer together. Memory for it is reserved at the start.
    The bundle's own limit applies if it is smaller."""
    num_threads: int | None = setting(
        kinds.integer(1, 64), None, note="from the CPUs and the CPU quota of the process"
    )
    """Threads for the computation."""
    num_slots: int | None = setting(
        kinds.integer(1, 16), None, note="as many as fit into `budget.memory`, up to 4"
    )
    """Requests answered at the same time; each reserves memory for a whole context."""
    warm_prompts: tuple[str, ...] = setting(kinds.text_list(PROMPT), ())
    """System prompts, besides `request.system_prompt`, whose keys and values are computed in
    advance: kept in memory, and in `state.folder` for the first request after a boot. One that does
    not fit into `budget.memory` is left out, with a line in the log."""
    prefill_chunk_tokens: int | None = setting(
        kinds.integer(8, 4096),
        None,
        note="the fastest size of at most 0.1 s, measured at the first start and stored in "
        "`state.folder`; 64 without that folder",
    )
    """Prompt tokens computed in one chunk; deadlines and cancels are checked between chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """The MQTT broker and the connection to it."""

    host: str = setting(_HOST, "localhost")
    """Host name or address of the MQTT broker."""
    port: int = setting(kinds.integer(1, 65535), 1883, note="1883, or 8883 with `tls`")
    """Port of the broker."""
    username: str | None = setting(kinds.text(), None)
    """User name at the broker."""
    password_file: Path | None = setting(kinds.PATH, None)
    """File with the password in its first line. Preferred over `password`."""
    password: str | None = setting(kinds.text(), None, is_secret=True)
    """Password at the broker, visible to everyone who can read this file."""
    tls: bool = setting(kinds.FLAG, default=False)
    """Encrypt the connection (TLS 1.2 or later)."""
    ca_file: Path | None = setting(kinds.PATH, None, note="the system's authorities")
    """CA certificate (PEM) that signed the broker's certificate; needs `tls`."""
    keepalive_s: float = setting(kinds.duration("5s", "1h"), 30.0)
    """MQTT keep-alive: longest time without a packet."""
    client_id: str | None = setting(kinds.text(max_length=64), None, note="edged-`node`-SECRET")
    """MQTT client identifier; must be unique at the broker, which gives a client's session to
    whoever knows it. So the default has a part that others cannot guess, made from the password or
    kept in `state.folder`; with neither it is edged-`node`."""
    protocol: str = setting(kinds.choice("auto", "5", "3.1.1"), "auto")
    """MQTT version; `auto` tries 5 and falls back to 3.1.1."""
    session_expiry_s: float = setting(kinds.duration("0s", "30d"), 3600.0)
    """How long the broker keeps requests for a disconnected node (MQTT 5)."""

    @property
    def is_local(self) -> bool:
        """Whether the broker is on this machine."""
        return self.host.lower() in ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """Limits on the device's memory, temperature and battery."""

    memory_bytes: int | None = setting(
        kinds.size("32M", "1024G"),
        None,
        note="the smaller of 90 % of the kernel's limit and 80 % of the free memory at start",
    )
    """Resident memory edged may use in total. A model that does not fit stops the start; a request
    that does not fit is refused with `memory_pressure`."""
    min_available_bytes: int = setting(kinds.size("0", "1024G"), 64 * 1024**2)
    """Memory that must stay available on the device for other processes."""
    max_temperature_c: float | None = setting(kinds.number(20, 120), None)
    """Temperature of the hottest zone, in °C, above which new background requests are refused until
    it is 5 °C cooler."""
    min_battery: float | None = setting(kinds.number(0, 1), None)
    """Battery charge, 0 to 1, below which new background requests are refused while the device is
    not on mains power."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestConfig:
    """Defaults and limits of requests."""

    timeout_s: float = setting(kinds.duration("100ms", "1d"), 30.0)
    """Deadline of a request that sets none."""
    max_timeout_s: float = setting(kinds.duration("100ms", "1d"), 300.0)
    """Longest deadline of a request; longer ones are shortened to it."""
    max_tokens: int = setting(kinds.integer(1, 131072), 128)
    """Longest answer of a request without `max_tokens`."""
    max_payload_bytes: int = setting(kinds.size("256", "1M"), 16 * 1024)
    """Largest request; a larger one is refused with `payload_too_large`."""
    system_prompt: str | None = setting(PROMPT, None, note="the model's own")
    """System message of a request without one."""
    allow_system: bool = setting(kinds.FLAG, default=True)
    """Whether a request may have its own system message."""
    escalate_to: str | None = setting(_NODE_OR_GROUP, None, note="none")
    """Another node, or `group/NAME`, that is asked what a specialist here is unsure of and does not
    pass on itself. It needs the same specialist; the prompt is sent to it, and goes no further."""
    reply_prefixes: tuple[str, ...] = setting(
        kinds.text_list(_REPLY_PREFIX), ("edged/", "reply/"), note="[`prefix`/, reply/]"
    )
    """Prefixes of the reply topics that a request without an account may choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """Who is answered, and whose models are used."""

    identity: str = setting(kinds.choice(*IDENTITIES), IDENTITY_OPTIONAL)
    """With `required`, only accounts of the broker are answered, on topics of their own
    (`prefix`/`node`/client/USER/request/generate), which the broker's access list keeps for each of
    them. `optional` also answers requests on `prefix`/`node`/request/generate: for a broker that
    gives no accounts."""
    require_signature: bool | None = setting(
        kinds.FLAG, None, note="`true` as soon as there is a key in `keys`"
    )
    """Use only bundles and specialists that are signed by one of `keys` (`edged sign`), and those
    that `edged key add` found on the device when the first key was installed."""
    keys: Path = setting(kinds.PATH, Path("/etc/edged/keys"))
    """Folder of the public keys whose models are used; see `edged key`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Queued requests."""

    size: int = setting(kinds.integer(1, 256), 8)
    """Requests that may be queued; further ones are refused with `queue_full`. The last places are
    for clients that do not have their share of it, and one more is for a client that has none."""
    weights: tuple[tuple[str, float], ...] = setting(_WEIGHTS, ())
    """Accounts of the broker and their shares of the device, such as `[ha=3, panel=1]`. Any other
    account has 1; so have all clients without an account together."""
    lend_s: float = setting(kinds.duration("0s", "60s"), 2.0)
    """While others are active, a client that has its share is promised only work that ends within
    this time; a request with this much more time than it needs finds room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsConfig:
    """Dialogues kept in memory, so that a request sends only its new messages."""

    count: int = setting(kinds.integer(0, 256), 8)
    """Sessions kept; a new one replaces the one idle longest of the client that has the most. With
    0, requests with a `session` are refused."""
    max_tokens: int = setting(kinds.integer(64, 131072), 1536)
    """Longest prompt of a session, in tokens. Above it, or above the part of the context that the
    answer leaves free, the oldest turns are dropped."""
    idle_s: float = setting(kinds.duration("1s", "7d"), 1800.0)
    """A session idle for this long is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """Several nodes that share requests, through the broker's shared subscriptions."""

    name: str | None = setting(_NAME, None, note="none")
    """Group to join; its requests are sent to `prefix`/group/`name`/request/generate, and each goes
    to one of its nodes."""
    receive_maximum: int = setting(kinds.integer(1, 2), 2)
    """Requests of the group that the broker delivers before this node has answered one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAssistantConfig:
    """Home Assistant's MQTT discovery."""

    discovery: bool = setting(kinds.FLAG, default=True)
    """Announce the node by MQTT discovery; `false` removes an earlier announcement."""
    prefix: str = setting(_DISCOVERY, "homeassistant")
    """Home Assistant's discovery prefix; never allowed as a reply topic."""
    user: str = setting(_USER, "ha")
    """Home Assistant's user name at the broker: its questions and answers have the topics of this
    account."""
    ask: bool = setting(kinds.FLAG, default=False)
    """Announce entities for questions and a sensor with the last answer: every user of Home
    Assistant can then ask the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """Status reports, and data that survives a restart."""

    interval_s: float = setting(kinds.duration("1s", "1h"), 30.0)
    """Time between two `state` messages; a change is published at once."""
    folder: Path | None = setting(kinds.PATH, None)
    """Folder for data that survives a crash, such as the running request: one that crashed the
    process twice is refused with `crashed_before` instead of being retried for ever. Also holds the
    copy of the model prepared for this device, twice the model's size; without this folder it is
    made beside the model."""
    corrections: int = setting(kinds.integer(0, 10_000), 0)
    """Corrections of specialists that are kept in `folder`, with their prompts, in
    `corrections.jsonl`; above this number, or 4 MiB, the oldest go, of the accounts that have the
    most. With 0, `correct` requests are refused."""
    file: Path | None = setting(kinds.PATH, None)
    """JSON file rewritten with each `state`; `edged health` reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Metrics for other programs to collect."""

    prometheus_file: Path | None = setting(kinds.PATH, None)
    """Text file with all metrics, rewritten with each `state`, for node_exporter's textfile
    collector; every user may read it. Its name must end in `.prom`."""
    watts_per_thread: float | None = setting(kinds.number(0, 1000), None)
    """Power of one busy thread above idle, in watts. Where the processor has no energy counter,
    `usage.energy_j` is computed from it and labelled `model`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Logging; never a prompt or an answer."""

    level: str = setting(kinds.choice("debug", "info", "warning", "error"), "info")
    """Least severe message to log."""
    format: str = setting(kinds.choice("auto", "plain", "journal"), "auto")
    """`journal` starts each line with the severity, for journald, `plain` with the time; `auto`
    detects journald."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Keys outside of the sections."""

    node: str = setting(_NAME, "edged", note="the host name")
    """Name of this node in all topics."""
    prefix: str = setting(_PREFIX, "edged")
    """First part of all topics."""
    specialists: tuple[Path, ...] = setting(kinds.path_list(64), (), note="none")
    """Folders of specialists made by `edged teach`. A reload takes up changes of this list, and of
    the folders, without loading the model again."""
    model: ModelConfig
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    request: RequestConfig = field(default_factory=RequestConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    sessions: SessionsConfig = field(default_factory=SessionsConfig)
    group: GroupConfig = field(default_factory=GroupConfig)
    homeassistant: HomeAssistantConfig = field(default_factory=HomeAssistantConfig)
    state: StateConfig = field(default_factory=StateConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def served_folders(self) -> tuple[Path, ...]:
        """The folders of the model and of the specialists."""
        return self.model.path, *self.specialists

    @property
    def client_id(self) -> str:
        """MQTT client identifier: the configured one, or the node's part of the default."""
        return self.broker.client_id or f"edged-{self.node}"


def node_name_of(host_name: str) -> str:
    """Make a node name from a host name: its first label, lowercased, other characters as ``-``."""
    # Host names may have capitals and, on some systems, an underscore; a node's name may not.
    label = host_name.partition(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", label).strip("-")[:32].strip("-") or "edged"
