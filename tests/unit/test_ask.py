"""The command line of ``edged ask``: options, environment variables and errors."""

import argparse
import io
import sys
from pathlib import Path

import pytest

from edged.commands import ask as command
from edged.commands.ask import AskOptions
from edged.commands.broker_options import BrokerOptions
from edged.config.broker_url import BrokerAddress
from edged.errors import UsageError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[AskOptions]:
    """What ``main`` would have asked, instead of asking it."""
    recorded: list[AskOptions] = []

    def record(options: AskOptions) -> int:
        recorded.append(options)
        return 0

    monkeypatch.setattr(command, "ask", record)
    monkeypatch.delenv("EDGED_BROKER", raising=False)
    monkeypatch.delenv("EDGED_NODE", raising=False)
    return recorded


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(words))


def test_defaults_are_the_local_broker_and_plain_text(asked: list[AskOptions]) -> None:
    run("--node", "kitchen", "hello")
    assert asked == [
        AskOptions("hello", BrokerOptions(BrokerAddress("localhost", 1883), "kitchen"))
    ]


def test_every_option_is_passed_on(asked: list[AskOptions]) -> None:
    words = "--broker mqtts://b --node n --prefix p --stream --json --system s --max-tokens 3"
    more = "--temperature 0.5 --timeout 2.5 --ca-file ca.pem --protocol 5 hello"
    run(*words.split(), *more.split())
    assert asked == [
        AskOptions(
            prompt="hello",
            target=BrokerOptions(
                BrokerAddress("b", 8883, is_tls=True), "n", prefix="p", ca_file=Path("ca.pem")
            ),
            is_stream=True,
            is_json=True,
            system="s",
            max_tokens=3,
            temperature=0.5,
            timeout_s=2.5,
            protocol="5",
        )
    ]


def test_the_environment_gives_defaults_and_options_win(
    asked: list[AskOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGED_BROKER", "mqtt://me:secret@from-environment")
    monkeypatch.setenv("EDGED_NODE", "attic")
    run("hello")
    run("--broker", "mqtt://other", "--node", "cellar", "hello")
    assert [(options.target.address.host, options.target.node) for options in asked] == [
        ("from-environment", "attic"),
        ("other", "cellar"),
    ]
    assert asked[0].target.address.password == "secret"  # noqa: S105 - made up


def test_credentials_beside_the_url_win(asked: list[AskOptions], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from file\nsecond line\n")
    options = ["--username", "you", "--password-file", str(secret)]
    run("--node", "n", "--broker", "mqtt://me:word@b", *options, "hello")
    address = asked[0].target.address
    assert (address.username, address.password) == ("you", "from file")


def test_a_dash_reads_the_prompt_from_standard_input(
    asked: list[AskOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("long\nprompt\n"))
    run("--node", "n", "-")
    assert asked[0].prompt == "long\nprompt\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["hello"], "--node: name the node to ask, or set EDGED_NODE"),
        (["--node", "n", "--timeout", "0", "x"], "--timeout: must be more than 0 s"),
        (["--node", "n", "--timeout", "nan", "x"], "--timeout: must be more than 0 s"),
        (["--node", "n", "--broker", "b", "x"], "--broker: it must start with mqtt://"),
        (["--node", "n", "--password-file", "/nowhere", "x"], "--password-file: cannot be read"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(
    asked: list[AskOptions], words: list[str], problem: str
) -> None:
    with pytest.raises(UsageError) as caught:
        run(*words)
    assert str(caught.value).startswith(problem)
    assert not asked
