"""What this machine is, from /proc, /sys and /etc. Reads files; made once at start and for each status."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts that do not change while a kubelet runs."""

    cpus: int
    memory: int  # bytes
    disk: int  # bytes of the file system of the root directory
    swap: int
    machine_id: str
    system_uuid: str
    boot_id: str
    kernel: str
    os_image: str
    architecture: str


def read_machine(root: Path) -> Machine:
    """The machine on which `root`, the kubelet's directory, is."""
    memory = _meminfo()
    existing = next(path for path in (root, *root.parents) if path.exists())
    return Machine(
        cpus=os.cpu_count() or 1,
        memory=memory.get("MemTotal", 0),
        disk=shutil.disk_usage(existing).total,
        swap=memory.get("SwapTotal", 0),
        machine_id=_read("/etc/machine-id") or _read("/var/lib/dbus/machine-id"),
        system_uuid=_read("/sys/class/dmi/id/product_uuid") or _read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        kernel=platform.release(),
        os_image=_os_image(),
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
    )


def memory_available() -> int:
    """Bytes the kernel could hand out without swapping."""
    return _meminfo().get("MemAvailable", 0)


def _meminfo() -> dict[str, int]:
    values = {}
    for line in _read("/proc/meminfo").splitlines():
        if match := re.match(r"(\w+):\s+(\d+) kB", line):
            values[match.group(1)] = int(match.group(2)) * 1024
    return values


def _os_image() -> str:
    for line in _read("/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return "Linux"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
