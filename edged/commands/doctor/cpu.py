"""Check the processor, and which int8 kernels of ONNX Runtime it supports."""

import platform
from collections.abc import Iterator
from pathlib import Path

from edged.bundle.manifest import Manifest
from edged.commands.doctor.finding import Finding, failure, good

# CPU flag → what it provides, the best first.
_X86 = {
    "amx_int8": "AMX tiles",
    "avx512_vnni": "512-bit int8 dot products",
    "avx_vnni": "256-bit int8 dot products",
    "avx2": "256-bit int8 products through 16 bits",
}
_ARM = {
    "i8mm": "int8 matrix products",
    "asimddp": "int8 dot products",
    "asimd": "int8 products through 16 bits",
}


def check_cpu(
    manifest: Manifest | None, proc: Path = Path("/proc"), machine: str | None = None
) -> Iterator[Finding]:
    """Check the processor's features.

    Args:
        manifest: Of the model to run, or None.
        proc: The proc file system.
        machine: The architecture, this one's by default.
    """
    machine = machine or platform.machine()
    known = {"x86_64": _X86, "aarch64": _ARM}.get(machine)
    if known is None:
        yield failure(
            "cpu",
            f"a {machine} processor",
            "use a 64-bit x86-64 or Arm system; there are no wheels for others",
        )
        return
    flags = _flags(proc / "cpuinfo")
    found = [flag for flag in known if flag in flags]
    if not found:
        wanted = next(reversed(known))
        yield failure("cpu", f"{machine} without {wanted}", "use a newer processor", cpu_flags=[])
        return
    said = f"{machine} with {', '.join(found)}: {known[found[0]]}"
    yield good("cpu", said, cpu_flags=found)
    if manifest is not None:
        yield _kernels(manifest.scheme, manifest.kernels.get(machine), flags)


def _kernels(scheme: str, wanted: str | None, flags: set[str]) -> Finding:
    if wanted is not None and wanted not in flags:
        return failure(
            "kernels",
            f"no kernel for {scheme} without {wanted}: its weights are unpacked for every token",
            "build the model with `edged build --scheme int8-w8a8`",
        )
    return good("kernels", f"{scheme} has a kernel on this processor")


def _flags(path: Path) -> set[str]:
    """Read the features of the first processor; Arm and x86 name the line differently."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
