"""The daemon: time to READY, memory, and CPU when idle.

No broker is needed: the daemon is READY without one and keeps trying to connect.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from edged.commands.bench.usage import cpu_s, read_memory
from edged.commands.local_daemon import READY, NotStartedError, started

READY_LIMIT_S = 300.0
SETTLE_S = 2.0
IDLE_S = 10.0
_NO_BROKER = "mqtt://127.0.0.1:9"  # the discard port: nothing listens

Figures = dict[str, float]


def measure_daemon(
    bundle: Path, num_threads: int, max_model_len: int, state: Path
) -> Figures | None:
    """Start the daemon twice and measure the second one; blocks.

    The first start prepares the model for this device, as on every device.

    Args:
        bundle: The model's folder.
        num_threads: Threads of the engine.
        max_model_len: Tokens of context.
        state: ``state.folder`` of the daemon.

    Returns:
        ``ready_s``, ``rss_bytes``, ``pss_bytes``, ``private_dirty_bytes``, ``idle_cpu_share``;
        None if it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
        folder = Path(name)
        config = folder / "edged.yaml"
        model = {
            "path": str(bundle.resolve()),
            "num_threads": num_threads,
            "max_model_len": max_model_len,
        }
        settings = {"model": model, "state": {"folder": str(state)}}
        config.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        run = [sys.executable, "-m", "edged", "run", "--config", str(config)]
        command = [*run, "--broker", _NO_BROKER, "--node", "bench"]
        try:
            with started(command, folder, READY, READY_LIMIT_S):
                pass
            started_s = time.perf_counter()
            with started(command, folder, READY, READY_LIMIT_S) as process:
                ready_s = time.perf_counter() - started_s
                return {"ready_s": ready_s, **_watch(process.pid)}
        except NotStartedError:
            return None


def _watch(process_id: int) -> Figures:
    time.sleep(SETTLE_S)
    before_s, used_s = time.perf_counter(), cpu_s([process_id])
    time.sleep(IDLE_S)
    share = (cpu_s([process_id]) - used_s) / (time.perf_counter() - before_s)
    return {"idle_cpu_share": share, **read_memory([process_id])}
