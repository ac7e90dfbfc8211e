"""Broker URLs: parsing, and the errors of wrong ones."""

import pytest

from edged.config.broker_url import BrokerAddress, parse_broker_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://localhost", BrokerAddress("localhost", 1883)),
        ("mqtts://broker.local", BrokerAddress("broker.local", 8883, is_tls=True)),
        ("MQTT://10.0.0.1:1884/", BrokerAddress("10.0.0.1", 1884)),
        (
            "mqtt://me:p%40ss%2Fword@host:1",
            BrokerAddress("host", 1, username="me", password="p@ss/word"),  # noqa: S106 - made up
        ),
        ("mqtt://me@[::1]:1883", BrokerAddress("::1", 1883, username="me")),
    ],
)
def test_a_url_is_read(url: str, address: BrokerAddress) -> None:
    assert parse_broker_url(url) == address


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost", "it must start with mqtt:// or mqtts://"),
        ("localhost:1883", "it must start with mqtt:// or mqtts://"),
        ("http://user:hunter2@host", "it must start with mqtt:// or mqtts://"),
        ("mqtt://", "the host is missing"),
        ("mqtt://host:0", "the port must be a number from 1 to 65535"),
        ("mqtt://host:99999", "the port must be a number from 1 to 65535"),
        ("mqtt://host:hunter2", "the port must be a number from 1 to 65535"),
        ("mqtt://host:1883/topic", "nothing may follow the port"),
        ("mqtt://:hunter2@host", "a password needs a user before it"),
        ("mqtt://[::1", "the host is not a name or an address"),
    ],
)
def test_a_wrong_url_is_told_what_to_write_and_its_password_is_not_repeated(
    url: str, problem: str
) -> None:
    with pytest.raises(ValueError, match="write it like mqtt://") as caught:
        parse_broker_url(url)
    assert str(caught.value).startswith(problem)
    assert "hunter2" not in str(caught.value)


def test_an_address_shows_its_url_without_credentials() -> None:
    address = parse_broker_url("mqtts://me:hunter2@[::1]:8884")
    assert address.url == "mqtts://[::1]:8884"
    assert "hunter2" not in repr(address)
    assert parse_broker_url("mqtt://h").url == "mqtt://h:1883"
