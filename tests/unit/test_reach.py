"""``edged doctor``: are the unit's address rules those of the broker?"""

from pathlib import Path

import pytest

from edged.commands.doctor.finding import Level
from edged.commands.doctor.reach import allowed_of, check_reach
from edged.config.keys import BrokerConfig

SHIPPED = "127.0.0.0/8 ::1/128 10.0.0.0/8 fc00::/7"


@pytest.mark.parametrize(
    ("host", "allowed", "level", "said"),
    [
        ("10.0.0.2", "10.0.0.2/32", Level.OK, "allows the broker's address only; the process may"),
        ("localhost", "127.0.0.1/32 ::1/128", Level.OK, "allows the broker's address only"),
        ("broker.local", SHIPPED, Level.OK, "as the broker is a name; the process may reach: "),
        ("10.0.0.2", SHIPPED, Level.WARNING, f"allows more than the broker: {SHIPPED}"),
        ("10.0.0.2", "", Level.WARNING, "limits no addresses"),
        ("10.0.0.2", "10.0.0.3/32", Level.FAILURE, "does not allow 10.0.0.2: 10.0.0.3/32"),
    ],
)
def test_rules_of_another_broker_are_found(
    host: str, allowed: str, level: Level, said: str
) -> None:
    (finding,) = check_reach(BrokerConfig(host=host), allowed)
    assert (finding.check, finding.level) == ("network", level)
    assert said in finding.said
    assert (finding.advice is None) == (level is Level.OK)


def test_without_a_unit_there_is_nothing_to_find() -> None:
    assert list(check_reach(BrokerConfig(), None)) == []


@pytest.mark.parametrize(
    ("denied", "allowed"), [("::/0 0.0.0.0/0", "10.0.0.2/32"), ("", ""), ("0.0.0.0/0", "")]
)
def test_what_is_allowed_limits_nothing_where_the_rest_is_not_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str, allowed: str
) -> None:
    lines = f"IPAddressAllow=10.0.0.2/32\nIPAddressDeny={denied}\nLoadState=loaded"
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\ncat << END\n{lines}\nEND\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert allowed_of("edged.service") == allowed
