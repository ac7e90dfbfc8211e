"""The examples in ``deploy/examples`` against a real daemon on a real broker."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from edged.commands.local_broker import Broker, mosquitto, running
from tests.paths import DATA, ROOT
from tests.requirements import require
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import peer
from tests.system.shipped_broker import install_configuration, installed, node_arguments
from tests.tiny_model import write_tiny_bundle

EXAMPLES = ROOT / "deploy" / "examples"
STUBS = DATA / "arduino"
NODE_MODULES = "/usr/share/nodejs"
"""Where Debian puts its packages of JavaScript."""
SCREEN_LINES = 60
ACCOUNTS = {"edged": "one", "ha": "two", "other": "three"}


@dataclass(frozen=True)
class Served:
    """A broker with a daemon, and who asks."""

    broker: Broker
    environment: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    require_mosquitto()
    folder = tmp_path_factory.mktemp("served")
    bundle = write_tiny_bundle(folder / "bundle")
    with (
        running(mosquitto(folder)) as broker,
        daemon(folder, *serve_arguments(bundle, broker.url)) as process,
    ):
        process.until("STATUS=serving")
        yield broker


@pytest.fixture(scope="module")
def served_to_accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The shipped access list, and a node that answers accounts only."""
    folder = tmp_path_factory.mktemp("accounts")
    bundle = write_tiny_bundle(folder / "bundle")
    broker = install_configuration(folder, "edged-lan.conf", installed(), ACCOUNTS)
    required = {"identity": "required"}
    arguments = node_arguments(folder, bundle, broker, ACCOUNTS["edged"], security=required)
    # Where mosquitto_rr looks for more options.
    (folder / "mosquitto_rr").write_text("-P three\n", "utf-8")
    account = {"MQTT_USER": "other", "MQTT_PASSWORD": "three", "XDG_CONFIG_HOME": str(folder)}
    with running(broker), daemon(folder, *arguments) as process:
        process.until("STATUS=serving")
        yield Served(broker, account)


@pytest.fixture(params=["served", "served_to_accounts"])
def anywhere(request: pytest.FixtureRequest) -> Served:
    """Each kind of broker: without accounts, and with them."""
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, Served) else Served(found, {})


def run(broker: Broker, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    place = {"MQTT_HOST": broker.host, "MQTT_PORT": str(broker.port)}
    return subprocess.run(
        command,
        env=os.environ | place | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def require_javascript() -> str:
    node = shutil.which("node")
    has_mqtt = Path(NODE_MODULES, "mqtt").exists()
    require(node and has_mqtt, "mqtt.js is not installed (apt-get install node-mqtt)")
    return str(node)


def script(name: str) -> list[str]:
    """Return the command of an example, or skip without its interpreter or library."""
    path = str(EXAMPLES / name)
    if name.endswith(".js"):
        return [require_javascript(), path]
    if name.endswith(".sh"):
        require(shutil.which("mosquitto_rr"), "mosquitto_rr is missing (mosquitto-clients)")
        return [path]
    require(find_spec("aiomqtt") or "aiomqtt" not in name, "aiomqtt is not installed (extra dev)")
    return [sys.executable, path]


@pytest.mark.parametrize("name", ["ask.sh", "ask_paho.py", "ask_aiomqtt.py", "ask.js"])
def test_a_script_prints_the_answer(anywhere: Served, name: str) -> None:
    environment = anywhere.environment | {"NODE_PATH": NODE_MODULES}
    done = run(anywhere.broker, *script(name), "Is the boiler ok?", **environment)
    assert done.returncode == 0, done.stderr
    if name == "ask.sh":
        assert json.loads(done.stdout)["status"] == "ok"
    else:
        assert done.stdout.strip()
        assert done.stderr == ""


@pytest.mark.parametrize("name", ["ask_paho.py", "ask_aiomqtt.py", "ask.js"])
def test_a_script_prints_an_error_with_its_code(served: Broker, name: str) -> None:
    done = run(served, *script(name), " ", NODE_PATH=NODE_MODULES)
    assert done.returncode == 1
    assert done.stderr.startswith("bad_request: prompt")


def home_assistant(template: str, **names: Any) -> str:  # noqa: ANN401 - what templates take
    """Render with the template functions of Home Assistant that the example uses."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["to_json"] = json.dumps
    return environment.from_string(template).render(**names)


class Now:
    """Home Assistant's ``now()``."""

    def timestamp(self) -> float:
        return 1_700_000_000.5


@dataclass(frozen=True)
class Entity:
    """One of Home Assistant's ``states``."""

    entity_id: str
    name: str

    @property
    def domain(self) -> str:
        return self.entity_id.partition(".")[0]


LAMP, SUN = Entity("light.desk", "Desk lamp"), Entity("sun.sun", "Sun")
AREAS, FLOORS = {"light.desk": "Office", "sun.sun": "Garden"}, {"light.desk": None}


def test_home_assistants_script_tells_a_command_with_the_devices_of_the_home(
    served: Broker,
) -> None:
    example = yaml.safe_load((EXAMPLES / "home-assistant-home.yaml").read_text())
    (action,), (act,) = example["script"]["edged_command"]["sequence"], example["automation"]
    assert action["action"] == "mqtt.publish"
    names = {"states": [LAMP, SUN, Entity("light.attic", "Attic")], "now": Now, "text": "lamp off"}
    found = {"area_name": AREAS.get, "area_id": lambda name: name, "floor_name": FLOORS.get}
    payload = home_assistant(action["data"]["payload"], **names, **found, area="Office")
    request = json.loads(payload)
    devices = [{"id": "light.desk", "name": "Desk lamp", "area": "Office", "floor": None}]
    assert request["inputs"] == {"area": "Office", "devices": devices}
    assert (request["prompt"], request["specialist"]) == ("lamp off", "home")
    with peer(served.port, "3.1.1", act["triggers"][0]["topic"]) as home:
        home.publish(action["data"]["topic"], payload.encode())
        assert home.reply()["error"]["message"].startswith("specialist: ")


OFF = {"service": "light.turn_off", "target": ["light.desk"], "data": {}}


@pytest.mark.parametrize(
    ("reply", "actions", "told"),
    [
        ({"json": {"actions": [OFF]}}, [OFF], None),
        ({"json": {"actions": [], "reason": "ambiguous"}}, [], "Several devices fit. Which one?"),
        ({"json": {"actions": [], "reason": "none"}}, [], "I know no device here for that."),
        (
            {"json": None, "finish_reason": "unsure"},
            [],
            "I am not sure what is meant (unsure).",
        ),
        ({"error": {"message": "too late"}}, [], "too late"),
    ],
)
def test_home_assistants_automation_does_what_is_sure_and_tells_the_rest(
    reply: dict[str, Any], actions: list[Any], told: str | None
) -> None:
    (act,) = yaml.safe_load((EXAMPLES / "home-assistant-home.yaml").read_text())["automation"]
    said = {"status": "ok", "data": {"finish_reason": "stop"} | reply}
    if "error" in reply:
        said = {"status": "error", "data": {}} | reply
    names: dict[str, Any] = {"trigger": {"payload_json": said}}
    for name, template in act["variables"].items():
        # Home Assistant makes what a template gives what it looks like.
        names[name] = ast.literal_eval(home_assistant(template, **names))
    do, tell = act["actions"]
    each = do["repeat"]["for_each"]
    assert ast.literal_eval(home_assistant(each, **names)) == actions
    assert home_assistant(tell["if"], **names) == str(told is not None)
    if told is not None:
        (notification,) = tell["then"]
        assert home_assistant(notification["data"]["message"], **names).strip() == told


def test_home_assistants_automation_acts_on_a_specialist_that_is_sure(served: Broker) -> None:
    path = EXAMPLES / "home-assistant-specialist.yaml"
    ask, act = yaml.safe_load(path.read_text())["automation"]
    data = ask["actions"][0]["data"]
    payload = home_assistant(data["payload"], now=Now, states=lambda _: "It drips.")
    request = json.loads(payload)
    assert (request["prompt"], request["specialist"]) == ("It drips.", "washing-machine")
    topic = act["triggers"][0]["topic"]
    with peer(served.port, "3.1.1", topic) as home:
        home.publish(data["topic"], payload.encode())
        refused = home.reply()
    assert refused["error"]["message"].startswith("specialist: ")
    leak, unsure = (option["conditions"] for option in act["actions"][0]["choose"])
    sure = {"text": "leak", "finish_reason": "stop"}
    guesses = [{"text": "leak"}, {"text": ""}, {"text": "door"}]
    guessed = sure | {"finish_reason": "unsure", "guesses": guesses}
    replies = [
        ({"status": "ok", "data": sure}, "leak"),
        ({"status": "ok", "data": sure | {"text": ""}}, "none"),
        (
            {"status": "ok", "data": guessed},
            "unsure",
        ),
        (refused, "error"),
    ]
    for reply, expected in replies:
        trigger = {"trigger": {"payload_json": reply}}
        said = home_assistant(act["variables"]["said"], **trigger).strip()
        assert said == expected
        assert home_assistant(leak, said=said) == str(expected == "leak")
        assert home_assistant(unsure, said=said) == str(expected == "unsure")
    message = act["actions"][0]["choose"][1]["sequence"][0]["data"]["message"]
    asked = home_assistant(message, trigger={"payload_json": replies[2][0]})
    assert asked.strip() == "Did you mean leak or door?"
    written = {"payload_json": {"status": "ok", "data": {"finish_reason": "unsure"}}}
    assert home_assistant(message, trigger=written).strip() == "What do you mean?"


def test_the_node_red_flow_asks_and_routes_the_answer(served: Broker) -> None:
    flow = {item["id"]: item for item in json.loads((EXAMPLES / "node-red.json").read_text())}
    for item in flow.values():
        assert all(target in flow for wires in item.get("wires", []) for target in wires)
        assert item.get("broker", "edged-broker") in flow or item["type"] == "mqtt-broker"
    node = require_javascript()

    def call(name: str, message: object) -> Any:  # noqa: ANN401 - JSON
        called = f"new Function('msg', process.argv[1])({json.dumps(message)})"
        code = f"console.log(JSON.stringify({called}))"
        done = run(served, node, "-e", code, flow[name]["func"])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    message = call("edged-request", {"payload": flow["edged-inject"]["payload"]})
    with peer(served.port, "5", flow["edged-in"]["topic"]) as red:
        red.publish(
            message["topic"],
            message["payload"].encode(),
            ResponseTopic=message["responseTopic"],
            CorrelationData=bytes(message["correlationData"]["data"]),
            ContentType=message["contentType"],
            MessageExpiryInterval=message["messageExpiryInterval"],
        )
        reply = red.reply()
    answered, failed = call("edged-reply", {"payload": reply})
    assert (answered["payload"], failed) == (reply["data"]["text"], None)
    error = {"status": "error", "error": {"code": "timeout", "message": "too late"}}
    assert call("edged-reply", {"payload": error})[1]["payload"] == "timeout: too late"


def test_the_sketch_gets_its_answer_at_the_default_topic_of_its_account(served: Broker) -> None:
    """It speaks MQTT 3.1.1, and names no topic for the reply."""
    sketch = (EXAMPLES / "ask_edged" / "ask_edged.ino").read_text()
    topics = dict(re.findall(r'\*(k\w+) = "(edged/[^"]+)"', sketch))
    assert "response_topic" not in sketch
    with peer(served.port, "3.1.1", topics["kReplies"]) as board:
        board.publish(topics["kRequests"], {"id": "7", "prompt": "Hi.", "timeout_ms": 20000})
        reply = board.reply()
    assert (reply["id"], reply["status"]) == ("7", "ok")


def test_each_topic_of_an_example_is_one_of_its_account() -> None:
    clients = [path for path in EXAMPLES.rglob("*.*") if path.suffix not in (".csv", ".md")]
    assert len(clients) >= 7
    for path in clients:
        lines = [line for line in path.read_text().splitlines() if re.search(r"edged/[k$`{]", line)]
        assert lines, path
        assert [line for line in lines if "/client/" not in line] == [], path


def test_the_sketch_compiles() -> None:
    require(shutil.which("g++"), "g++ is not installed (apt-get install g++)")
    sketch = EXAMPLES / "ask_edged" / "ask_edged.ino"
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    language = ["-std=c++17", "-x", "c++", "-I", str(STUBS), "-include", "Arduino.h"]
    done = subprocess.run(
        ["g++", "-fsyntax-only", *warnings, *language, str(sketch)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_each_example_fits_on_a_screen_and_is_listed_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    files = [path for path in EXAMPLES.rglob("*") if path.is_file() and path.name != "README.md"]
    assert len(files) >= 7
    for path in files:
        assert len(path.read_text().splitlines()) <= SCREEN_LINES
        assert str(path.relative_to(EXAMPLES)) in readme
