"""A real Home Assistant: its process in a Debian of its own, and how its users reach it."""

import contextlib
import http.client
import json
import re
import secrets
import shutil
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edged.commands.local_broker import free_port

LIMIT_S = 240.0
"""For a machine that is busy with something else; what is right takes a fraction of it."""
_POLL_S = 0.2
_HERE = Path(__file__).parent
# Nothing stays mounted when the process ends.
_ENTER = """\
root=$1 config=$2
shift 2
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount --bind "$config" "$root/srv/ha"
exec chroot "$root" "$@"
"""
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/srv/ha", "LC_ALL": "C.UTF-8"}
_PROBLEM = re.compile(r"(?m)^\S+ \S+ (?:WARNING|ERROR|CRITICAL) .*")
# That nothing is installed at its start, and that the machine is busy.
_EXPECTED = re.compile("Skipping pip installation|is taking over|took longer than")


class RefusedError(OSError):
    """Home Assistant's reply is an HTTP error."""


def eventually(probe: Callable[[], object]) -> bool:
    """Call until it returns something true; return whether it did within the limit."""
    pause = threading.Event()
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if probe():
                return True
        pause.wait(_POLL_S)
    return False


class HomeAssistant:
    """Home Assistant with its owner."""

    def __init__(self, root: Path, folder: Path) -> None:
        """Configure it without starting it.

        Args:
            root: The folder that ``scripts/home-assistant-root`` prepared.
            folder: For its configuration, its log and its state.
        """
        self._root = root
        self._config = folder / "home-assistant"
        (self._config / "packages").mkdir(parents=True)
        shutil.copy(_HERE / "configuration.yaml", self._config)
        self._port = free_port()
        self._token: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def add_package(self, path: Path) -> None:
        """Install a part of a configuration, which counts from the next start on."""
        name = path.name.replace("-", "_")
        shutil.copy(path, self._config / "packages" / name)

    def start(self) -> None:
        """Start it, and return when it runs.

        Raises:
            RuntimeError: It does not.
        """
        options = ["--config", "/srv/ha", "--skip-pip", "--log-no-color"]
        with (self._config / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._inside("hass", *options),
                env=_ENVIRONMENT | {"HTTP_PORT": str(self._port)},
                stdout=output,
                stderr=output,
            )
        if not eventually(self._has_started):
            raise RuntimeError(f"Home Assistant does not start: {self._config}/output.log")

    def stop(self) -> None:
        """Stop it as a service manager does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LIMIT_S)

    def close(self) -> None:
        """Kill it if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(LIMIT_S)

    def _inside(self, program: str, *arguments: str) -> list[str]:
        # Killed with this process: it must not outlive its tests.
        tied = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]
        enter = [*tied, "sh", "-ec", _ENTER, "sh", str(self._root), str(self._config)]
        return [*enter, f"/opt/ha/bin/{program}", *arguments]

    def _has_started(self) -> bool:
        if self._token is None:
            self._token = self._owner()
        return bool(self.call("GET", "/api/config")["state"] == "RUNNING")

    def _owner(self) -> str:
        """Make the owner, with the first step of the first dialogue; return an access token."""
        owner = {"name": "Owner", "username": "owner", "password": secrets.token_hex(8)}
        client = f"http://127.0.0.1:{self._port}/"
        step = {**owner, "language": "en", "client_id": client}
        code = self.call("POST", "/api/onboarding/users", step)["auth_code"]
        form = {"grant_type": "authorization_code", "code": code, "client_id": client}
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        tokens = self._request("POST", "/auth/token", urllib.parse.urlencode(form), kind)
        return str(tokens["access_token"])

    def _request(self, method: str, path: str, data: str | None, headers: dict[str, str]) -> Any:  # noqa: ANN401 - JSON
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_S)
        with contextlib.closing(connection):
            connection.request(method, path, data, headers)
            reply = connection.getresponse()
            text = reply.read().decode()
        if reply.status >= http.client.BAD_REQUEST:
            raise RefusedError(f"{method} {path}: {reply.status} {text}")
        return json.loads(text)

    def call(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Ask its REST API; raise ``RefusedError`` where it refuses."""
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return self._request(method, path, None if body is None else json.dumps(body), headers)

    def command(self, *commands: dict[str, Any]) -> list[Any]:
        """Give commands to its WebSocket API, which must succeed; return their results."""
        script = (_HERE / "websocket.py").read_text("utf-8")
        url = f"ws://127.0.0.1:{self._port}/api/websocket"
        done = subprocess.run(
            self._inside("python", "-c", script, url, str(self._token)),
            env=_ENVIRONMENT,
            input=json.dumps(commands),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results: list[Any] = json.loads(done.stdout)
        return results

    def connect(self, port: int, user: str) -> None:
        """Set up its MQTT integration as the dialogue does, with MQTT 5.

        Args:
            port: Of the broker on this machine.
            user: The account, whose password is its name.

        Raises:
            RuntimeError: The integration does not take it.
        """
        flow = "/api/config/config_entries/flow"
        place = {"broker": "127.0.0.1", "port": port, "username": user, "password": user}
        protocol = {"protocol": "5", "set_client_cert": False, "set_ca_cert": "off"}
        step = self.call("POST", flow, {"handler": "mqtt", "show_advanced_options": True})
        for answer in (place | {"advanced_options": True}, place | protocol | {"transport": "tcp"}):
            step = self.call("POST", f"{flow}/{step['flow_id']}", answer)
        if step["type"] != "create_entry":
            raise RuntimeError(f"the MQTT integration: {step}")

    def do(self, service: str, **data: object) -> None:
        """Call a service; return when it is done."""
        self.call("POST", f"/api/services/{service.replace('.', '/')}", data)

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the state of each entity, with its attributes."""
        return {one["entity_id"]: one for one in self.call("GET", "/api/states")}

    def problems(self) -> list[str]:
        """Return what its logs have of warnings and errors."""
        logs = [path.read_text("utf-8") for path in self._config.glob("home-assistant.log*")]
        lines = [line for log in logs for line in _PROBLEM.findall(log)]
        return [line for line in lines if not _EXPECTED.search(line)]
