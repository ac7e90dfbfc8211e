"""Arguments for a daemon that needs a configuration file, not only options."""

from pathlib import Path

import yaml

from edged.commands.local_broker import Broker


def configured(
    folder: Path,
    bundle: Path,
    broker: Broker,
    *,
    node: str = "kitchen",
    protocol: str = "auto",
    account: tuple[str, str] | None = None,
    **sections: object,
) -> list[str]:
    """Write a configuration into ``folder`` and return the options of ``edged run`` for it.

    ``account`` is the user name and the password of the node.
    """
    username, password = account or (None, None)
    config = {
        "node": node,
        "model": {"path": str(bundle)},
        "broker": {
            "host": broker.host,
            "port": broker.port,
            "protocol": protocol,
            "username": username,
            "password": password,
        },
        **sections,
    }
    path = folder / "edged.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["--config", str(path)]
