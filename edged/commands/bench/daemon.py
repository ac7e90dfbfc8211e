"""The daemon itself: from its start to READY, what it holds then, what it costs when idle.

It is started as a service manager starts it; no broker is needed, it says READY without one.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edged.commands.bench.usage import cpu_s, read_memory
from edged.daemon.sdnotify import EXTENSION

_READY_LIMIT_S = 300.0
_POLL_S = 0.25
_CALM_S = 2.0
_IDLE_S = 10.0
_NO_BROKER = "mqtt://127.0.0.1:9"
"""The discard port: nobody answers, and the daemon keeps trying as it would in the field."""

Figures = dict[str, float]


def measure_daemon(
    bundle: Path, num_threads: int, max_model_len: int, state: Path
) -> Figures | None:
    """Start the daemon twice, watch the second one for seconds, stop it; blocks.

    The first start prepares the model for this device, as it does once in the field.

    Args:
        bundle: the model's folder.
        num_threads: that compute.
        max_model_len: of the context.
        state: the daemon's folder.

    Returns:
        ``ready_s``, ``rss_bytes``, ``pss_bytes``, ``private_dirty_bytes``, ``idle_cpu_share``;
        None when it ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        config = Path(folder, "edged.yaml")
        model = {
            "path": str(bundle.resolve()),
            "num_threads": num_threads,
            "max_model_len": max_model_len,
        }
        settings = {"model": model, "state": {"folder": str(state)}}
        config.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(f"{folder}/notify")
            _start_once(config, notices, lambda *_: {})
            return _start_once(config, notices, _watch)


def _start_once(
    config: Path, notices: socket.socket, watch: Callable[[int, float], Figures]
) -> Figures | None:
    """Start the daemon, watch it once it is ready, and end it; None when it ended by itself."""
    environment = {**os.environ, "NOTIFY_SOCKET": str(config.with_name("notify"))}
    words = ["run", "--config", str(config), "--broker", _NO_BROKER, "--node", "bench"]
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "edged", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        if not _is_ready(notices, process):
            return None
        figures = watch(process.pid, time.perf_counter() - started_s)
        return figures if process.poll() is None else None
    finally:
        process.kill()
        process.wait()


def _is_ready(notices: socket.socket, process: "subprocess.Popen[bytes]") -> bool:
    notices.settimeout(_POLL_S)
    limit_s = time.monotonic() + _READY_LIMIT_S
    while process.poll() is None and time.monotonic() < limit_s:
        try:
            told = notices.recv(4096).decode()
        except TimeoutError:
            continue
        if "READY=1" in told.splitlines() or EXTENSION in told:
            return EXTENSION not in told  # nobody will bring now what it waits for
    return False


def _watch(process_id: int, ready_s: float) -> Figures:
    time.sleep(_CALM_S)
    before_s, used_s = time.perf_counter(), cpu_s([process_id])
    time.sleep(_IDLE_S)
    share = (cpu_s([process_id]) - used_s) / (time.perf_counter() - before_s)
    return {"ready_s": ready_s, "idle_cpu_share": share, **read_memory([process_id])}
