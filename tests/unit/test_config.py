"""Configuration: the meaning of a file, and the errors of a wrong one."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.config import kinds
from edged.config.broker_url import parse_broker_url
from edged.config.keys import (
    BrokerConfig,
    BudgetConfig,
    Config,
    ModelConfig,
    QueueConfig,
    RequestConfig,
    node_name_of,
)
from edged.config.load import SETTINGS, broker_overrides, load_config
from edged.errors import ConfigError, ExitCode
from scripts.configuration_reference import example_yaml, reference_markdown, show
from tests.paths import ROOT

FILE = "/etc/edged/edged.yaml"
MODEL = "model: {path: /models/m}\n"


def load(text: str, overrides: Mapping[str, str | None] | None = None) -> Config:
    return load_config(MODEL + text, FILE, overrides=overrides)


def refusal(text: str, overrides: Mapping[str, str | None] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(text, FILE, overrides=overrides)
    return str(caught.value)


def test_only_the_model_is_required() -> None:
    assert load("") == Config(model=ModelConfig(path=Path("/models/m")))


def test_every_section_is_read() -> None:
    config = load_config(
        """
        node: kitchen
        prefix: home/edged
        model: {path: /m, max_model_len: 1024, num_threads: 3, prefill_chunk_tokens: 64}
        broker: {host: 192.168.1.5, port: 1884, username: u, password_file: secret, keepalive: 1min,
                 protocol: 5, client_id: me, session_expiry: 2h}
        budget: {memory: 800M, min_available: 0}
        request: {timeout: 8, max_timeout: 500ms, max_payload: 8K}
        """.replace("max_timeout: 500ms", "max_timeout: 5min"),
        FILE,
    )
    assert (config.node, config.prefix) == ("kitchen", "home/edged")
    assert config.model == ModelConfig(
        path=Path("/m"), max_model_len=1024, num_threads=3, prefill_chunk_tokens=64
    )
    assert config.broker == BrokerConfig(
        host="192.168.1.5",
        port=1884,
        username="u",
        password_file=Path("/etc/edged/secret"),
        keepalive_s=60.0,
        protocol="5",
        client_id="me",
        session_expiry_s=7200.0,
    )
    assert config.budget == BudgetConfig(memory_bytes=800 * 1024**2, min_available_bytes=0)
    assert (config.request.timeout_s, config.request.max_timeout_s) == (8.0, 300.0)
    assert config.request.max_payload_bytes == 8192


def test_weights_are_names_with_numbers() -> None:
    queue = load("queue: {weights: [ha=3, a=b=0.5], lend: 500ms}").queue
    assert (queue.weights, queue.lend_s) == ((("ha", 3.0), ("a=b", 0.5)), 0.5)
    assert load("queue: {weights: ha=3}").queue.weights == (("ha", 3.0),)


@pytest.mark.parametrize("weights", ["ha", "ha=", "=1", "a/b=1", "ha=0", "ha=1e3", "[ha=1, ha=2]"])
def test_a_wrong_weight_is_named(weights: str) -> None:
    message = refusal(f"{MODEL}queue: {{weights: {weights}}}")
    assert message.startswith("queue.weights: expected a list, each item NAME=NUMBER: a user name")


def test_lists_texts_flags_and_choices_are_read() -> None:
    config = load(
        "request:\n"
        "  reply_prefixes: [a/, b]\n"
        "  allow_system: no\n"
        "  system_prompt: |\n    Be brief.\n    Be kind.\n"
        "log: {level: debug, format: journal}\n"
        "queue: {size: 3}\n"
        "state: {interval: 5, file: ~}\n"
    )
    assert config.request == RequestConfig(
        reply_prefixes=("a/", "b"), allow_system=False, system_prompt="Be brief.\nBe kind.\n"
    )
    assert (config.log.level, config.log.format) == ("debug", "journal")
    assert config.queue == QueueConfig(size=3)
    assert config.state.interval_s == 5.0
    assert config.state.file is None


def test_specialists_are_paths_from_the_file_and_not_too_many() -> None:
    config = load_config(f"{MODEL}specialists: [lamp, /srv/door]\n", "/etc/edged.yaml")
    assert config.specialists == (Path("/etc/lamp"), Path("/srv/door"))
    many = ", ".join(f"s{number}" for number in range(65))
    with pytest.raises(ConfigError, match=r"specialists: expected a list of at most 64 paths"):
        load_config(f"{MODEL}specialists: [{many}]\n", FILE)


@pytest.mark.parametrize("text", ["", "null", "# nothing\n", "broker:\n", "broker: ~\n"])
def test_an_empty_document_or_section_leaves_the_defaults(text: str) -> None:
    config = load_config(text, FILE, overrides={"model.path": "/models/m"})
    assert config == load("")


def test_text_is_not_what_yaml_makes_of_it() -> None:
    """A password of digits keeps its zero, and a node called ``no`` is not a boolean."""
    config = load("node: no\nbroker: {username: 0123, password: 1e3}")
    assert (config.node, config.broker.username, config.broker.password) == ("no", "0123", "1e3")


def test_a_relative_path_starts_at_the_file_and_on_the_command_line_where_it_runs() -> None:
    config = load_config(
        "model: {path: m}\nstate: {file: s.json}", FILE, overrides={"model.path": "other"}
    )
    assert config.state.file == Path("/etc/edged/s.json")
    assert config.model.path == Path("other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("broker: {hots: x}", "broker.hots: unknown key; did you mean broker.host? (%, line 1)"),
        ("\nbrokr: {host: x}", "brokr: unknown key; did you mean broker? (%, line 2)"),
        ("timeout: 5", "timeout: unknown key; did you mean request.timeout? (%, line 1)"),
        ("colour: red", "colour: unknown key (%, line 1)"),
        ("[a, b]: 1", "?: unknown key (%, line 1)"),
        ("a: &x {b: *x}", "a: unknown key (%, line 1)"),
        ("broker: here", "broker: expected its keys on the lines below (%, line 1)"),
        ("broker: [1]", "broker: expected its keys on the lines below (%, line 1)"),
        ("node: a\nnode: b", "node: given twice (line 1 and %, line 2)"),
        ("node: {a: b}", "node: expected a plain value (%, line 1)"),
        ("node: !!python/name:os.system x", "node: expected a plain value (%, line 1)"),
        ("- a", "%: expected keys and values (key: value)"),
        ("node: [", "%: not YAML, line 1: expected the node content, but found '<stream end>'"),
        ("node: \0", "%: not YAML: ReaderError"),
        ("[" * 600, "%: not YAML: RecursionError"),
        ("node: a\n---\nnode: b", "%: not YAML, line 2: but found another document"),
        ("node: a", "model.path: required (%). Folder of the model bundle made by `ed"),
        ("model: {path: }", "model.path: expected a path, got null (%, line 1)"),
        ("node: Kitchen", "node: expected 1 to 32 of a-z, 0-9 and -, got 'Kitchen' (%, line 1)"),
        ("node: [a]", "node: expected 1 to 32 of a-z, 0-9 and -, got ['a'] (%, line 1)"),
        (
            "broker: {port: 70000}",
            "broker.port: expected a whole number from 1 to 65535, got '70000'",
        ),
        ("broker: {port: 1.5}", "broker.port: expected a whole number from 1 to 65535, got '1.5'"),
        ("broker: {protocol: 4}", "broker.protocol: expected one of auto, 5, 3.1.1, got '4'"),
        ("broker: {tls: maybe}", "broker.tls: expected true or false, got 'maybe'"),
        ("budget: {memory: 1M}", "budget.memory: expected a size from 32M to 1024G, got '1M'"),
        ("budget: {memory: much}", "budget.memory: expected a size from 32M to 1024G, got 'much'"),
        ("queue: {size: 0}", "queue.size: expected a whole number from 1 to 256, got '0'"),
        ("state: {interval: 3 weeks}", "state.interval: expected a duration from 1s to 1h, got "),
        ("request: {reply_prefixes: [a, 'b/#']}", "request.reply_prefixes: expected a list, each "),
        ("request: {reply_prefixes: [~]}", "request.reply_prefixes: expected a list, each item"),
        ("prefix: edged/", "prefix: expected a topic without + and #, not starting with $ or"),
        ("log: {level: " + "x" * 999 + "}", "log.level: expected one of debug, info, warning, "),
    ],
)
def test_a_wrong_file_is_refused_with_the_path_and_what_to_write(text: str, message: str) -> None:
    said = refusal(text)
    assert said.startswith(message.replace("%", FILE))
    assert len(said) < 250


def test_a_refusal_ends_the_process_with_ex_config() -> None:
    with pytest.raises(ConfigError) as caught:
        load("nodes: 1")
    assert caught.value.exit_code is ExitCode.CONFIG


@pytest.mark.parametrize(
    "text",
    ["broker: {password: [hunter2]}", "broker: {password: hunter2, port: x}", "a: [hunter2"],
)
def test_a_secret_is_never_repeated(text: str) -> None:
    assert "hunter2" not in refusal(text)
    assert "hunter2" not in repr(load("broker: {username: u, password: hunter2}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("broker: {username: u, password: p, password_file: f}", "broker.password: set beside"),
        ("broker: {password: p}", "broker.password: set without broker.username"),
        ("broker: {password_file: p}", "broker.password: set without broker.username"),
        ("broker: {ca_file: ca.pem}", "broker.ca_file: set, but broker.tls is false"),
        ("state: {corrections: 10}", "state.corrections: set without state.folder"),
        ("node: attic\nrequest: {escalate_to: attic}", "request.escalate_to: names this node"),
        ("request: {escalate_to: group}", "request.escalate_to: names this node"),
        (
            "group: {name: heating}\nrequest: {escalate_to: group/heating}",
            "request.escalate_to: names this node or its own group",
        ),
        ("request: {timeout: 10min}", "request.timeout: longer than request.max_timeout"),
        ("request: {max_tokens: 2048}", "request.max_tokens: leaves no room for a prompt"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(text: str, message: str) -> None:
    assert refusal(MODEL + text).startswith(message)


def test_defaults_follow_the_keys_they_depend_on() -> None:
    config = load("node: attic\nprefix: home\nbroker: {tls: true}")
    assert config.broker.port == 8883
    assert config.request.reply_prefixes == ("home/", "reply/")
    assert config.client_id == "edged-attic"
    given_keys = (
        "prefix: home\nbroker: {tls: on, port: 1, client_id: c}\nrequest: {reply_prefixes: x/}"
    )
    config = load(given_keys)
    assert config.broker.port == 1
    assert config.request.reply_prefixes == ("x/",)
    assert config.client_id == "c"


def test_the_command_line_wins_over_the_file() -> None:
    config = load("node: a\nbroker: {port: 1}", overrides={"node": "b", "broker.username": None})
    assert (config.node, config.broker.port) == ("b", 1)
    assert "command line" in refusal(MODEL, overrides={"node": "B"})
    assert refusal(MODEL, overrides={"broker.hst": "x"}) == (
        "broker.hst: unknown key; did you mean broker.host? (command line)"
    )


def test_the_host_name_is_only_a_default() -> None:
    assert load_config(MODEL, FILE, default_node="pi").node == "pi"
    assert load_config(MODEL + "node: attic", FILE, default_node="pi").node == "attic"


def test_options_alone_make_a_configuration() -> None:
    address = parse_broker_url("mqtts://anna:s%20t@broker.local:8884")
    words = {"model.path": "bundle", **broker_overrides(address)}
    config = load_config("", "command line", overrides=words | {"node": "attic"})
    assert (config.node, config.model.path) == ("attic", Path("bundle"))
    expected = BrokerConfig(host="broker.local", port=8884, tls=True, username="anna")
    assert config.broker == replace(expected, password="s t")  # noqa: S106 - not a real one
    with pytest.raises(ConfigError, match=r"^node: expected .*, got 'Attic' \(command line\)"):
        load_config("", "command line", overrides=words | {"node": "Attic"})


def test_a_broker_url_replaces_the_address_and_only_the_credentials_it_has() -> None:
    text = "broker: {tls: true, ca_file: ca.pem, username: u, password_file: f}"
    config = load(text, overrides=broker_overrides(parse_broker_url("mqtt://other")))
    assert config.broker == BrokerConfig(
        host="other", username="u", password_file=Path("/etc/edged/f")
    )
    config = load(text, overrides=broker_overrides(parse_broker_url("mqtts://v:w@other")))
    assert (config.broker.username, config.broker.password) == ("v", "w")
    assert (config.broker.password_file, config.broker.ca_file) == (None, Path("/etc/edged/ca.pem"))


@pytest.mark.parametrize(
    ("host_name", "node"),
    [
        ("RaspberryPi.local", "raspberrypi"),
        ("my_box (2)", "my-box-2"),
        ("a" * 31 + "-b", "a" * 31),
        ("äö", "edged"),
        ("", "edged"),
    ],
)
def test_a_host_name_becomes_a_node_name(host_name: str, node: str) -> None:
    assert node_name_of(host_name) == node
    assert load(f"node: {node_name_of(host_name)}").node == node


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("800M", 838860800),
        ("1.5GiB", 1610612736),
        ("2 GB", 2000000000),
        ("64kB", 64000),
        ("100", 100),
        ("100B", 100),
    ],
)
def test_sizes_have_the_units_of_systemd_and_of_the_shop(text: str, size_bytes: int) -> None:
    assert kinds.size("0", "1024G").read(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("500ms", 0.5), ("5min", 300), ("1.5 h", 5400), ("2d", 172800), ("7", 7)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert kinds.duration("0s", "30d").read(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1.5", 1.5), ("+2", 2.0)])
def test_a_number_may_have_a_fraction(text: str, value: float) -> None:
    assert kinds.number(0, 10).read(text) == value


@pytest.mark.parametrize("text", ["", "1e3", "nan", ".5", "5.", "1,5", "11", "-1"])
def test_what_is_no_number_in_its_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        kinds.number(0, 10).read(text)


@pytest.mark.parametrize("text", ["", "s", "-1s", "nan", "inf", "1e3", "1 m", "1" * 30, "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        kinds.duration("0s", "9999d").read(text)


@settings(deadline=None)
@given(st.integers(0, 2**40))
def test_a_size_is_shown_as_it_can_be_read(size_bytes: int) -> None:
    kind = kinds.size("0", "1024G")
    assert kind.read(show(size_bytes, kind.unit_suffix)) == size_bytes


@settings(deadline=None)
@given(st.integers(0, 10**9).map(lambda ms: ms / 1000))
def test_a_duration_is_shown_as_it_can_be_read(seconds: float) -> None:
    kind = kinds.duration("0s", "30d")
    assert kind.read(show(seconds, kind.unit_suffix)) == pytest.approx(seconds, rel=1e-5)


@settings(deadline=None)
@given(
    st.text(st.characters(codec="utf-8")) | st.sampled_from(["a: *b", "? !!x", "<<: {}", "%YAML 9"])
)
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    try:
        config = load_config(text, FILE, overrides={"model.path": "m"})
    except ConfigError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(config, Config)


def test_the_example_holds_every_key_at_its_default() -> None:
    text = example_yaml()
    config = load_config(text, FILE)
    assert config == Config(model=ModelConfig(path=config.model.path))
    for path in SETTINGS:
        assert f"\n{'  ' if '.' in path else ''}{path.rpartition('.')[2]}:" in "\n" + text


def test_the_committed_reference_is_the_one_the_declarations_make() -> None:
    committed = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert committed == reference_markdown(), "run scripts/make-config-reference"


def test_the_reference_is_a_table_whatever_a_declaration_says() -> None:
    rows = [line for line in reference_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(SETTINGS)
    assert all(row.count("|") == 5 for row in rows)


def test_the_script_writes_the_reference(tmp_path: Path) -> None:
    script, target = ROOT / "scripts/make-config-reference", tmp_path / "reference.md"
    subprocess.run([sys.executable, script, target], check=True, timeout=60)
    assert target.read_text(encoding="utf-8") == reference_markdown()


def test_a_configuration_of_0_1_0_is_taken_over() -> None:
    text = (ROOT / "tests" / "data" / "configuration" / "edged-0.1.0.yaml").read_text("utf-8")
    config, default = load_config(text, FILE), load("")
    new = {"specialists", "security"}
    same = {name for name in asdict(config) if getattr(config, name) == getattr(default, name)}
    assert same == new
    assert config.budget.memory_bytes == 700 << 20
    assert config.request.reply_prefixes == ("replies",)
    assert config.broker.session_expiry_s == 7200
