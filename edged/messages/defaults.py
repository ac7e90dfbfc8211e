"""What the configuration says about requests, in the form ``decode`` takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from edged.messages.wire import Topics


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """Limits of this node, and what a request leaves open."""

    node: str
    prefix: str = "edged"
    timeout_s: float = 30.0
    """Deadline of a request that sets neither ``timeout_ms`` nor a Message Expiry Interval."""
    max_timeout_s: float = 300.0
    """Longest deadline; what a request asks for beyond it is cut."""
    max_tokens: int = 128
    max_payload_bytes: int = 16384
    max_readable_bytes: int = 65536
    """Up to here the id of a payload over the limit is still read, so that 413 can carry it."""
    is_system_allowed: bool = True
    """Whether a request may bring its own system text."""
    system: str | None = None
    """System text of requests that bring none."""
    reply_prefixes: Sequence[str] = ("edged/", "reply/")
    """Beginnings of the reply topics that requests may ask for."""
    discovery_prefix: str = "homeassistant"
    has_sessions: bool = True
    """Whether dialogues are held."""
    group: str | None = None
    """Group whose requests this node takes, too."""

    @property
    def topics(self) -> Topics:
        """The topics of this node."""
        return Topics(self.prefix, self.node, self.group)
