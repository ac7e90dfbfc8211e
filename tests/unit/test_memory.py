"""Memory readings: the real process, and the kernel's limits in every shape they come in."""

import mmap
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edged.daemon import memory
from edged.daemon.memory import (
    KernelLimits,
    is_memory_controller_on,
    kernel_limits,
)

MIB = 1024**2


def tree(root: Path, group: str, files: dict[str, str]) -> Path:
    """Write a fake /proc/self/cgroup and files below /sys/fs/cgroup; return the root."""
    for name, text in {"proc/self/cgroup": group, **files}.items():
        path = root / (name if name.startswith("proc") else f"sys/fs/cgroup/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_resident_memory_of_this_process_grows_with_what_it_touches() -> None:
    before = memory.rss_bytes()
    with mmap.mmap(-1, 64 * MIB) as block:
        block[:: mmap.PAGESIZE] = b"x" * (64 * MIB // mmap.PAGESIZE)
        assert 60 * MIB < memory.rss_bytes() - before < 80 * MIB


SCRAPS = """
from edged.daemon import memory

scraps = [bytes(1000) for _ in range(64_000)]
full = memory.rss_bytes()
scraps = scraps[::1000]  # so that the heap cannot shrink from its end
kept = memory.rss_bytes()
memory.return_freed()
print(full, kept, memory.rss_bytes())
"""


def test_what_was_freed_goes_back_to_the_system() -> None:
    command = [sys.executable, "-c", SCRAPS]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    full, kept, after = map(int, shown.split())
    assert full - kept < 8 * MIB
    assert full - after > 48 * MIB


SCRAPS_OF_A_THREAD = """
from threading import Thread

from edged.daemon import memory

memory.keep_one_heap()
bytes(30 << 20)  # from then on glibc thinks that tens of MiB are worth keeping


def fill():
    global full
    scraps = [bytes(1000) for _ in range(48_000)]
    full = memory.rss_bytes()


thread = Thread(target=fill)
thread.start()
thread.join()
memory.return_freed()
print(full, memory.rss_bytes())
"""


def test_what_a_thread_freed_goes_back_to_the_system() -> None:
    command = [sys.executable, "-c", SCRAPS_OF_A_THREAD]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    full, after = map(int, shown.split())
    assert full - after > 32 * MIB


def test_a_c_library_that_cannot_return_memory_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    memory.keep_one_heap()
    memory.return_freed()


def test_a_snapshot_reads_process_and_device() -> None:
    snapshot = memory.snapshot()
    assert snapshot.rss_bytes > 0
    assert 0 < snapshot.available_bytes == pytest.approx(memory.available_bytes(), rel=0.5)


def test_own_and_shared_memory_are_told_apart() -> None:
    shares, rss_bytes = memory.read_shares(), memory.rss_bytes()
    pss_bytes, uss_bytes = shares["pss_bytes"], shares["uss_bytes"]
    assert pss_bytes is not None
    assert uss_bytes is not None
    assert 0 < uss_bytes <= pss_bytes <= 1.1 * rss_bytes


def test_waiting_for_memory_is_read_from_the_kernel(tmp_path: Path) -> None:
    assert memory.stall_share(tmp_path) is None
    assert memory.read_shares(tmp_path) == dict.fromkeys(("pss_bytes", "uss_bytes", "memory_stall"))
    pressure = tmp_path / "proc/pressure/memory"
    pressure.parent.mkdir(parents=True)
    pressure.write_text("some avg10=12.50 avg60=1.00 avg300=0.00 total=9\nfull avg10=1.00\n")
    assert memory.stall_share(tmp_path) == 0.125


def test_the_smallest_limit_of_the_group_and_its_ancestors_holds(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/system.slice/edged.service\n",
        {
            "cgroup.controllers": "cpu memory pids\n",
            "system.slice/memory.max": f"{600 * MIB}\n",
            "system.slice/edged.service/memory.max": f"{800 * MIB}\n",
        },
    )
    assert kernel_limits(root).cgroup_bytes == 600 * MIB
    assert is_memory_controller_on(root)


def test_max_is_no_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/a\n", {"a/memory.max": "max\n"})
    assert kernel_limits(root).cgroup_bytes is None


def test_a_container_sees_its_limit_at_the_root_of_its_namespace(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", {"memory.max": "1048576\n"})
    assert kernel_limits(root).cgroup_bytes == MIB
    root = tree(tmp_path, "0::/../outside\n", {"memory.max": "1048576\n"})
    assert kernel_limits(root).cgroup_bytes == MIB


def test_a_kernel_with_the_memory_controller_off_has_no_limit(tmp_path: Path) -> None:
    """Raspberry Pi OS: the unit's MemoryMax= is shown by systemctl and there is no file for it."""
    root = tree(tmp_path, "0::/system.slice/edged.service\n", {"cgroup.controllers": "cpu pids\n"})
    assert kernel_limits(root).cgroup_bytes is None
    assert not is_memory_controller_on(root)


def test_the_first_version_of_control_groups_is_read(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "5:cpu,cpuacct:/x\n4:memory:/box/edged\n0::/\n",
        {
            "memory/box/memory.limit_in_bytes": f"{700 * MIB}\n",
            "memory/box/edged/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert kernel_limits(root).cgroup_bytes == 700 * MIB
    assert is_memory_controller_on(root)


def test_no_control_groups_at_all_are_no_limit(tmp_path: Path) -> None:
    assert kernel_limits(tmp_path).cgroup_bytes is None
    assert not is_memory_controller_on(tmp_path)


def test_the_data_limit_of_the_process_is_read() -> None:
    """In a child: a limit cannot be raised again."""
    program = (
        "import resource; from edged.daemon.memory import kernel_limits;"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({900 * MIB}, {900 * MIB}));"
        "print(kernel_limits().data_bytes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert int(done.stdout) == 900 * MIB


def test_an_unlimited_process_has_no_data_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert kernel_limits().data_bytes is None


@pytest.mark.parametrize(
    ("limits", "is_enforced"),
    [
        (KernelLimits(800 * MIB, None), True),
        (KernelLimits(1000 * MIB, None), True),
        (KernelLimits(1001 * MIB, None), False),
        (KernelLimits(None, 800 * MIB), False),
        (KernelLimits(None, None), False),
    ],
)
def test_a_budget_is_enforced_by_a_control_group_near_it(
    limits: KernelLimits, is_enforced: bool
) -> None:
    assert limits.is_enforced(800 * MIB) is is_enforced


def test_what_would_grow_too_far_fails_and_later_it_does_not() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory.limited_growth(64 * MIB):
        with pytest.raises(OSError, match="Cannot allocate"):
            mmap.mmap(-1, 256 * MIB, mmap.MAP_PRIVATE)
        limit_bytes, _ = resource.getrlimit(resource.RLIMIT_DATA)
        child = [sys.executable, "-c", f"bytearray({limit_bytes})"]
        done = subprocess.run(child, capture_output=True, text=True, check=False)
        assert "MemoryError" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    mmap.mmap(-1, 256 * MIB, mmap.MAP_PRIVATE).close()


def test_a_limit_that_is_there_is_not_raised() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, before[1]))
    try:
        with memory.limited_growth(1 << 50):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 1 << 40
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
