"""The address of a broker as a URL: ``mqtt://user:password@host:port`` or ``mqtts://…``.

Rule: an error says what to write instead, and never quotes the URL, which may contain a password.
"""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_WRONG_PORT = "the port must be a number from 1 to 65535"
_EXAMPLE = "write it like mqtt://broker.local:1883 or mqtts://user:password@broker.local:8883"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Address of a broker, and the credentials for it."""

    host: str
    port: int
    is_tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL without credentials, for logs and messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.is_tls else 'mqtt'}://{host}:{self.port}"


def parse_broker_url(url: str) -> BrokerAddress:
    """Parse a broker's URL; user and password may be percent-encoded.

    Raises:
        ValueError: It is not such a URL; the text says what is wrong and what to write.
    """
    try:
        parts = urlsplit(url)
        port = parts.port  # read here, because only this checks it
    except ValueError as error:
        is_port = "port" in str(error).lower()
        reason = _WRONG_PORT if is_port else "the host is not a name or an address"
        raise ValueError(f"{reason}; {_EXAMPLE}") from error
    problem = _problem(parts, port)
    if problem is not None:
        raise ValueError(f"{problem}; {_EXAMPLE}")
    return BrokerAddress(
        host=parts.hostname or "",
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        is_tls=parts.scheme == "mqtts",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


def _problem(parts: SplitResult, port: int | None) -> str | None:
    reasons = {
        "it must start with mqtt:// or mqtts://": parts.scheme not in DEFAULT_PORTS,
        "the host is missing": not parts.hostname,
        _WRONG_PORT: port == 0,
        "nothing may follow the port": bool(parts.path.strip("/") or parts.query or parts.fragment),
        "a password needs a user before it": bool(parts.password and not parts.username),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)
