"""cgroup v1: one hierarchy a controller, each with the same tree.

https://docs.kernel.org/admin-guide/cgroup-v1/
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from tiphys.kubelet.cgroups.tree import QUOTA_PERIOD, Limits, write

_WANTED: Final = frozenset({"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "freezer", "devices", "hugetlb"})


class CgroupV1:
    """Drives the hierarchies that are mounted on this machine."""

    unified = False

    def __init__(self, mountinfo: str | None = None) -> None:
        text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
        self._hierarchies = dict(_hierarchies(text))  # by controller; joined ones share a mount
        self._mounts = sorted(set(self._hierarchies.values()))
        self._all_mounts = sorted(set(_mounts(text)))

    def create(self, path: PurePosixPath, limits: Limits) -> None:
        for directory in self.directories(path):
            if not directory.is_dir():
                directory.mkdir()
                self._inherit_cpuset(directory)
        self._write("cpu", path, "cpu.shares", limits.cpu_shares)
        if limits.cpu_quota is not None:
            self._write("cpu", path, "cpu.cfs_period_us", QUOTA_PERIOD)
            self._write("cpu", path, "cpu.cfs_quota_us", limits.cpu_quota)
        self._write("memory", path, "memory.limit_in_bytes", limits.memory)
        self._write("pids", path, "pids.max", limits.pids)

    def directories(self, path: PurePosixPath) -> Iterator[Path]:
        for mount in self._mounts:
            yield mount / path.relative_to("/")

    def everywhere(self, path: PurePosixPath) -> Iterator[Path]:
        """Hierarchies we set nothing in too (name=systemd, the unified one beside v1): the OCI runtime uses them."""
        for mount in self._all_mounts:
            yield mount / path.relative_to("/")

    def controller(self, name: str, path: PurePosixPath) -> Path | None:
        mount = self._hierarchies.get(name)
        return mount / path.relative_to("/") if mount else None

    def _write(self, controller: str, path: PurePosixPath, file: str, value: int | None) -> None:
        directory = self.controller(controller, path)
        if directory is not None and value is not None:
            write(directory / file, value)

    def _inherit_cpuset(self, directory: Path) -> None:
        # A new cpuset is empty, and no process may enter it before it has CPUs and memory nodes.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (directory / file).exists() and not (directory / file).read_text().strip():
                write(directory / file, (directory.parent / file).read_text().strip())


def _mounts(mountinfo: str) -> Iterator[Path]:
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if kind and kind[0] in ("cgroup", "cgroup2") and len(fields) > 4 and fields[3] == "/":
            yield Path(fields[4])


def _hierarchies(mountinfo: str) -> Iterator[tuple[str, Path]]:
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(kind) < 3 or kind[0] != "cgroup" or len(fields) < 5 or fields[3] != "/":
            continue
        for option in kind[2].split(","):
            if option in _WANTED:
                yield option, Path(fields[4])
