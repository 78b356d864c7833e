"""The control groups of containers, read and taken away, under version 1 (also hybrid) and version 2.

    v1   /sys/fs/cgroup/<controller>/<path>     one tree a controller
    v2   /sys/fs/cgroup/<path>                  one tree

Limits are set by the OCI runtime from the specification; here is what the runtime reads itself.
https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a control group has used. Times in nanoseconds, sizes in bytes."""

    cpu: int = 0
    memory: int = 0
    working_set: int = 0
    rss: int = 0
    memory_limit: int = 0  # 0 is unlimited
    page_faults: int = 0
    major_page_faults: int = 0
    swap: int = 0
    swap_limit: int | None = None
    processes: int = 0


# The kernel shows "no limit" as a number near 2**63 rounded to pages.
_UNLIMITED = 1 << 60


class Cgroups:
    """The control groups of this machine."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.unified = (root / "cgroup.controllers").exists()
        # "cpu,cpuacct" appears as a directory and as links of both names: use each tree once.
        self._trees = (
            [root]
            if self.unified
            else sorted({tree.resolve() for tree in root.iterdir() if tree.is_dir()} if root.is_dir() else set())
        )

    def has(self, controller: str, file: str, path: str = "") -> bool:
        """Whether the kernel offers `file` of `controller` in the group `path`."""
        return (self._tree(controller) / path.lstrip("/") / file).exists()

    def _tree(self, controller: str) -> Path:
        return self.root if self.unified else self.root / controller

    def _dir(self, controller: str, path: str) -> Path:
        return self._tree(controller) / path.lstrip("/")

    def oom_kills(self, path: str) -> int:
        """How many processes of the group the kernel killed for want of memory."""
        directory = self._dir("memory", path)
        values = _table(directory / ("memory.events" if self.unified else "memory.oom_control"))
        return values.get("oom_kill", 0)

    def processes(self, path: str) -> list[int]:
        """All processes of the group and the groups below it."""
        pids: set[int] = set()
        for top in {self._dir("pids", path), self._dir("memory", path)}:
            for directory, _, _ in os.walk(top):
                with contextlib.suppress(OSError):
                    pids.update(int(pid) for pid in Path(directory, "cgroup.procs").read_text().split())
        return sorted(pids)

    def kill(self, path: str) -> None:
        """SIGKILL to everything in the group, repeated until nothing new is forked. Blocks up to a second."""
        with contextlib.suppress(OSError):
            if self.unified:
                (self._dir("", path) / "cgroup.kill").write_text("1")
                return
        for _ in range(50):
            pids = self.processes(path)
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def remove(self, path: str) -> None:
        """Remove the group from every tree, with the groups below it; busy ones stay."""
        if not path.strip("/"):
            return
        for tree in self._trees:
            top = tree / path.lstrip("/")
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def usage(self, path: str) -> Usage | None:
        """Current use of the group, None when it is gone."""
        try:
            return self._usage_v2(path) if self.unified else self._usage_v1(path)
        except (OSError, ValueError):
            return None

    def _usage_v1(self, path: str) -> Usage:
        memory = self._dir("memory", path)
        stat = _table(memory / "memory.stat")
        used = _number(memory / "memory.usage_in_bytes")
        limit = _number(memory / "memory.limit_in_bytes")
        return Usage(
            cpu=_number(self._dir("cpuacct", path) / "cpuacct.usage"),
            memory=used,
            working_set=max(0, used - stat.get("total_inactive_file", 0)),
            rss=stat.get("total_rss", 0),
            memory_limit=limit if limit < _UNLIMITED else 0,
            page_faults=stat.get("total_pgfault", 0),
            major_page_faults=stat.get("total_pgmajfault", 0),
            swap=stat.get("total_swap", 0),
            processes=_number(self._dir("pids", path) / "pids.current"),
        )

    def _usage_v2(self, path: str) -> Usage:
        directory = self._dir("", path)
        stat = _table(directory / "memory.stat")
        used = _number(directory / "memory.current")
        limit = (directory / "memory.max").read_text().strip()
        swap_limit = _optional(directory / "memory.swap.max")
        return Usage(
            cpu=_table(directory / "cpu.stat").get("usage_usec", 0) * 1000,
            memory=used,
            working_set=max(0, used - stat.get("inactive_file", 0)),
            rss=stat.get("anon", 0),
            memory_limit=0 if limit == "max" else int(limit),
            page_faults=stat.get("pgfault", 0),
            major_page_faults=stat.get("pgmajfault", 0),
            swap=_optional(directory / "memory.swap.current") or 0,
            swap_limit=swap_limit,
            processes=_optional(directory / "pids.current") or 0,
        )


def _number(path: Path) -> int:
    return int(path.read_text())


def _optional(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return None if text == "max" else int(text)


def _table(path: Path) -> dict[str, int]:
    """A file of "name number" lines; {} when it is not there."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
