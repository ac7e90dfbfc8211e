"""Readings of the device: every shape a board has, and boards that tell nothing."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edged.daemon.sensors import read_device, read_joules


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board whose frequency and battery nobody knows."""
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)


def test_the_hottest_zone_is_told(tmp_path: Path) -> None:
    zones = {
        "class/thermal/thermal_zone0/temp": "45123\n",
        "class/thermal/thermal_zone1/temp": "61000\n",
        "class/thermal/thermal_zone2/temp": "broken\n",
    }
    assert read_device(write(tmp_path, zones)).temperature_c == 61.0


def test_processors_held_back_for_heat_are_told(tmp_path: Path) -> None:
    devices = {
        "class/thermal/cooling_device0/type": "Processor\n",
        "class/thermal/cooling_device0/cur_state": "3\n",
        "class/thermal/cooling_device0/max_state": "10\n",
        "class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
        "class/thermal/cooling_device1/cur_state": "0\n",
        "class/thermal/cooling_device1/max_state": "4\n",
        "class/thermal/cooling_device2/type": "Fan\n",
        "class/thermal/cooling_device2/cur_state": "9\n",
        "class/thermal/cooling_device2/max_state": "9\n",
    }
    assert read_device(write(tmp_path, devices)).throttled == 0.3


@pytest.mark.parametrize(
    ("flags", "throttled", "weak"), [("0", None, False), ("50005", 1.0, True), ("8", 1.0, False)]
)
def test_the_firmware_of_a_raspberry_pi_is_read(
    tmp_path: Path, flags: str, throttled: float | None, *, weak: bool
) -> None:
    """Bits 16 and above are of the past."""
    name = "devices/platform/soc/soc:firmware/get_throttled"
    reading = read_device(write(tmp_path, {name: f"{flags}\n"}))
    assert (reading.throttled, reading.under_voltage) == (throttled, weak)


def test_a_board_that_tells_nothing_is_all_unknown(tmp_path: Path) -> None:
    reading = read_device(tmp_path)
    assert set(asdict(reading).values()) == {None}
    assert set(asdict(reading)) >= {"temperature_c", "throttled", "battery"}
    assert read_joules(tmp_path) is None


def test_frequency_and_battery_come_in_base_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=1800.0, max=2400.0))
    battery = SimpleNamespace(percent=80, power_plugged=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    reading = read_device(tmp_path)
    assert (reading.frequency_hz, reading.max_frequency_hz) == (1.8e9, 2.4e9)
    assert (reading.battery, reading.on_mains) == (0.8, False)
    monkeypatch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=1800.0, max=0.0))
    assert read_device(tmp_path).max_frequency_hz is None


def test_a_reading_that_fails_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no such sensor")

    monkeypatch.setattr(psutil, "cpu_freq", fail)
    monkeypatch.setattr(psutil, "sensors_battery", fail, raising=False)
    assert set(asdict(read_device(tmp_path)).values()) == {None}


def test_the_counters_of_all_packages_are_added(tmp_path: Path) -> None:
    counters = {
        "class/powercap/intel-rapl:0/energy_uj": "1500000\n",
        "class/powercap/intel-rapl:1/energy_uj": "500000\n",
        "class/powercap/intel-rapl:0:0/energy_uj": "999999999\n",
    }
    assert read_joules(write(tmp_path, counters)) == 2.0


def test_a_sensor_that_is_not_text_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "class/thermal/thermal_zone0/temp"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe")
    assert read_device(tmp_path).temperature_c is None
