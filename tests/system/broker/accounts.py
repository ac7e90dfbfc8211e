"""A broker with accounts: each has topics of its own, as ``docs/protocol.md`` says."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from edged.commands.local_broker import Broker, mosquitto, running
from tests.system.broker.conftest import require_mosquitto

CLIENTS = ("me", "other")
REQUIRED = {"identity": "required"}
# Of every account; a node is one as well, where it asks another node.
_EVERYBODY = """\
pattern write edged/+/client/%u/request/+
pattern write edged/group/+/client/%u/request/+
pattern read edged/+/client/%u/response/#
pattern read edged/+/client/%u/stream/+
pattern read edged/+/availability
pattern read edged/+/info
pattern read edged/+/state
pattern read edged/+/event
pattern read homeassistant/#
pattern write edged/+/request/+
pattern read edged/+/response/+
"""
_NODE = """\
user node-{node}
topic read edged/{node}/client/+/request/+
topic write edged/{node}/client/+/response/#
topic write edged/{node}/client/+/stream/+
topic read edged/{node}/request/+
topic write edged/{node}/+
topic write edged/{node}/response/+
topic read edged/group/+/client/+/request/+
topic readwrite edged/group/+/probe/{node}
topic write homeassistant/device/edged_{node}/config
topic read homeassistant/status
"""


@contextlib.contextmanager
def broker_with_accounts(
    folder: Path, nodes: Sequence[str] = ("kitchen",), protocol: str = "5"
) -> Iterator[Broker]:
    """Run a Mosquitto for ``CLIENTS`` and an account for each node."""
    require_mosquitto()
    rules = folder / "acl"
    rules.write_text("\n".join([_EVERYBODY, *(_NODE.format(node=node) for node in nodes)]))
    rules.chmod(0o600)
    names = [*CLIENTS, *(f"node-{node}" for node in nodes)]
    users = {name: name for name in names}
    extra = [f"acl_file {rules}"]
    with running(mosquitto(folder, protocol=protocol, users=users, extra=extra)) as broker:
        yield broker


def url_of(broker: Broker, user: str) -> str:
    """Return the URL for an account."""
    return f"mqtt://{user}:{user}@{broker.host}:{broker.port}"
