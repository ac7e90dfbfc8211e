"""The clock of deadlines and pauses."""

import time

# Unlike that of ``time.monotonic``, it goes on while the machine is suspended: a client waits on.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_s() -> float:
    """Return seconds since the boot."""
    return time.clock_gettime(_CLOCK)
