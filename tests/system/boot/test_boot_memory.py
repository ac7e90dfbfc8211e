"""At boot, a start waits for memory; everything is installed as docs/install.md says."""

import yaml

from tests.system.boot.conftest import ASK, show, succeed, wait_for, write_file
from tests.system.boot.machine import Machine

# Allocates memory until little is left, and any that is freed later; then it is READY.
NEIGHBOUR = """\
#!/usr/bin/python3
import os, socket, time

def available():
    with open("/proc/meminfo") as file:
        return int(file.read().partition("MemAvailable:")[2].split()[0])

held, address = [], os.environ.pop("NOTIFY_SOCKET")
while True:
    while available() > {floor}:
        held.append(bytearray(b"x") * (32 << 20))
    if address:
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", address)
        address = None
    time.sleep(0.2)
"""
NEIGHBOUR_UNIT = """\
[Unit]
Before=edged.service
[Service]
Type=notify
ExecStart=/usr/bin/python3 /usr/local/bin/neighbour
[Install]
WantedBy=multi-user.target
"""
QUICK = "[Service]\nTimeoutStartSec=20s\nWatchdogSec=5s\n"


def test_a_start_waits_for_memory_that_another_service_uses_at_boot(machine: Machine) -> None:
    """The unit waits longer than a normal start may take, and is neither failed nor restarted."""
    succeed(machine, "systemctl stop edged; cp /etc/edged/edged.yaml /src/saved")
    available = int(succeed(machine, "awk '/^MemAvailable/ {print $2}' /proc/meminfo"))
    # A lot, so that other processes on this machine matter little: half of it as a margin.
    taken = min(available // 4, 2 << 20)
    settings = yaml.safe_load(succeed(machine, "cat /etc/edged/edged.yaml"))
    settings["budget"]["min_available"] = f"{available - taken // 2}K"
    try:
        succeed(
            machine,
            write_file("/etc/edged/edged.yaml", yaml.safe_dump(settings))
            + write_file("/usr/local/bin/neighbour", NEIGHBOUR.format(floor=available - taken))
            + write_file("/etc/systemd/system/neighbour.service", NEIGHBOUR_UNIT)
            + write_file("/etc/systemd/system/edged.service.d/quick.conf", QUICK)
            + "systemctl enable neighbour; sync",
        )
        machine.cut_power()
        machine.boot(until="systemctl is-active --quiet neighbour mosquitto")
        wait_for(machine, 'systemctl status edged | grep --quiet "waiting: budget.min_available: "')
        started = "$(systemctl show -P ExecMainStartTimestampMonotonic edged)"
        wait_for(machine, f"[ $(($(cut -d. -f1 /proc/uptime) - {started} / 1000000)) -gt 24 ]")
        before = show(machine, "ActiveState", "SubState", "NRestarts", "MainPID")
        assert (before["ActiveState"], before["SubState"]) == ("activating", "start")
        succeed(machine, "systemctl stop neighbour")
        wait_for(machine, "systemctl is-active --quiet edged")
        wait_for(machine, ASK)
        after = show(machine, "NRestarts", "MainPID", "WatchdogUSec")
        assert after == {"NRestarts": "0", "MainPID": before["MainPID"], "WatchdogUSec": "5s"}
        # Of this start alone: the kernel counts no boots for a container, and other tests wait too.
        this_start = "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID edged)"
        journal = succeed(machine, f"journalctl --no-pager {this_start}")
        assert journal.count("the start waits") == 1
    finally:
        succeed(
            machine,
            "systemctl disable --now neighbour; mv /src/saved /etc/edged/edged.yaml;"
            " rm /etc/systemd/system/neighbour.service /usr/local/bin/neighbour"
            " /etc/systemd/system/edged.service.d/quick.conf",
        )
