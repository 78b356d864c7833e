"""CPU and memory of every process of the cluster, and of this one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.clusters import Running
from bench.memory import cpu_seconds, memory

EVERY: Final = 2.0  # seconds
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Use:
    """One process: CPU in seconds since its start, memory in bytes; `peak` is the largest resident size seen."""

    cpu: float
    rss: int
    pss: int
    peak: int


class Usage:
    """Looks every few seconds, since the largest size is between phases seldom."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._processes: Mapping[str, int] = {}
        self._peaks: dict[str, int] = {}
        self.again()

    @property
    def total(self) -> int:
        """Resident memory of all the cluster's processes now, in bytes; pages they share are counted twice."""
        return sum(_rss(pid) for name, pid in self._processes.items() if name != "this measurement")

    def again(self) -> list[str]:
        """Look who is there and begin anew with the peaks; the names of those that were started again."""
        before = self._processes
        self._processes = {**self._running.processes(), "this measurement": os.getpid()}
        self._peaks = dict.fromkeys(self._processes, 0)
        return [name for name, pid in self._processes.items() if before.get(name, pid) != pid]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for name, pid in self._processes.items():
                self._peaks[name] = max(self._peaks[name], _rss(pid))
            await asyncio.sleep(EVERY)

    def now(self) -> dict[str, Use]:
        """Every process that is there; one that ended is left out."""
        found = {}
        for name, pid in self._processes.items():
            with suppress(OSError, KeyError):
                rss = _rss(pid)
                found[name] = Use(cpu_seconds(pid), rss, memory(pid)[0], max(rss, self._peaks[name]))
        return found


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0
