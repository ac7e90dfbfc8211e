"""Check what the unit and the kernel let the service reach."""

import ipaddress
from collections.abc import Iterator

from edged.commands.doctor.finding import Finding, failure, good, warning
from edged.commands.doctor.service import unit_properties
from edged.config.keys import BrokerConfig
from edged.daemon.confinement import allowed_ports, broker_addresses, describe, landlock_abi

_ANY = ("0.0.0.0/0", "::/0")
_ADVICE = "run `edged install`, which writes the unit's rules for the configured broker"


def check_reach(broker: BrokerConfig, allowed: str | None) -> Iterator[Finding]:
    """Check that the unit's address rules are those of the broker.

    Args:
        broker: As it is configured.
        allowed: ``IPAddressAllow=`` of the unit; None where no unit runs the service.
    """
    if allowed is None:
        return
    networks = [ipaddress.ip_network(text) for text in allowed.split()]
    addresses = [ipaddress.ip_address(text) for text in broker_addresses(broker.host)]
    limits = f"the process may reach: {describe(landlock_abi(), allowed_ports(broker))}"
    if not networks:
        yield warning("network", f"the unit limits no addresses; {limits}", _ADVICE)
    elif not addresses:
        yield good("network", f"the unit allows {allowed}, as the broker is a name; {limits}")
    elif not any(address in network for address in addresses for network in networks):
        yield failure("network", f"the unit does not allow {broker.host}: {allowed}", _ADVICE)
    elif any(network.num_addresses > 1 for network in networks):
        yield warning("network", f"the unit allows more than the broker: {allowed}", _ADVICE)
    else:
        yield good("network", f"the unit allows the broker's address only; {limits}")


def allowed_of(unit: str) -> str | None:
    """Return ``IPAddressAllow=`` of a loaded unit; None without systemd or the unit.

    Nothing where the unit denies not all others: then it limits nothing.
    """
    shown = unit_properties(unit, "LoadState", "IPAddressAllow", "IPAddressDeny")
    if shown.get("LoadState") != "loaded":
        return None
    is_limited = {*_ANY} <= {*shown.get("IPAddressDeny", "").split()}
    return shown.get("IPAddressAllow", "") if is_limited else ""
