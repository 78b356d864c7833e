"""Eviction signals and thresholds.

https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#eviction-signals
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tiphys.kubelet.node.machine import Machine, memory_available
from tiphys.machinery.quantity import Quantity

MEMORY: Final = "memory.available"
NODEFS: Final = "nodefs.available"
NODEFS_INODES: Final = "nodefs.inodesFree"
IMAGEFS: Final = "imagefs.available"
IMAGEFS_INODES: Final = "imagefs.inodesFree"
PIDS: Final = "pid.available"


@dataclass(frozen=True, slots=True)
class Observation:
    """How much is left and how much there is, in bytes, inodes or processes."""

    available: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """A signal below `value` (an amount or a percentage of the capacity) calls for eviction."""

    signal: str
    value: str

    def amount(self, capacity: int) -> int:
        if self.value.endswith("%"):
            return int(capacity * float(self.value[:-1]) / 100)
        return Quantity.parse(self.value).value()

    def crossed(self, seen: Observation) -> bool:
        return seen.available < self.amount(seen.capacity)


def thresholds_of(settings: Mapping[str, str]) -> tuple[Threshold, ...]:
    return tuple(Threshold(signal, value) for signal, value in settings.items())


def measure(machine: Machine, root: Path, images: Path | None) -> dict[str, Observation]:
    """The signals now. Reads files."""
    found = {MEMORY: Observation(memory_available(), machine.memory)}
    for available, inodes, path in ((NODEFS, NODEFS_INODES, root), (IMAGEFS, IMAGEFS_INODES, images or root)):
        try:
            stat = os.statvfs(path)
        except OSError:
            continue
        found[available] = Observation(stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize)
        if stat.f_files:  # some file systems do not count inodes
            found[inodes] = Observation(stat.f_favail, stat.f_files)
    if (pids := _pids()) is not None:
        found[PIDS] = pids
    return found


def _pids() -> Observation | None:
    try:
        limit = int(Path("/proc/sys/kernel/pid_max").read_text())
        # loadavg's fourth field: runnable/total scheduling entities
        total = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return None
    return Observation(limit - total, limit)
