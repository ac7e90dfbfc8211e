"""What bare paho can do: this module, run with URL and TOPIC, sends all of it back.

Each message comes at QoS 1 and goes at QoS 1 to its Response Topic, as a request and its reply do.
Nothing is decoded, decided or remembered.
"""

import contextlib
import sys

from edged.commands.bench.wire_client import connect


def main(url: str, topic: str) -> None:
    """Echo until the broker is gone or the process is killed; say so on stdout when it begins."""
    client = connect(url, "edged-bench-echo", topic)
    print("ready", flush=True)
    with contextlib.suppress(OSError):
        client.echo()


if __name__ == "__main__":
    main(*sys.argv[1:])
