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
    user: str | None = None,
    **sections: object,
) -> list[str]:
    """Write a configuration into ``folder`` and return the options of ``edged run`` for it.

    The password of ``user`` is its name.
    """
    config = {
        "node": node,
        "model": {"path": str(bundle)},
        "broker": {"host": broker.host, "port": broker.port, "protocol": protocol}
        | ({} if user is None else {"username": user, "password": user}),
        **sections,
    }
    path = folder / "edged.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["--config", str(path)]
