"""cgroup v2: one hierarchy for every controller, handed down level by level.

https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from tiphys.kubelet.cgroups.tree import MOUNT, QUOTA_PERIOD, Limits, write
from tiphys.kubelet.resources import cpu_weight

_WANTED: Final = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")


class CgroupV2:
    """Drives the unified hierarchy mounted at `mount`."""

    unified = True

    def __init__(self, mount: Path = MOUNT) -> None:
        self._mount = mount

    def create(self, path: PurePosixPath, limits: Limits) -> None:
        directory = self._directory(path)
        self._enable_in(directory.parent)
        directory.mkdir(exist_ok=True)
        if limits.cpu_shares is not None:
            write(directory / "cpu.weight", cpu_weight(limits.cpu_shares))
        if limits.cpu_quota is not None:
            quota = "max" if limits.cpu_quota < 0 else limits.cpu_quota
            write(directory / "cpu.max", f"{quota} {QUOTA_PERIOD}")
        if limits.memory is not None:
            write(directory / "memory.max", "max" if limits.memory < 0 else limits.memory)
        if limits.pids is not None:
            write(directory / "pids.max", limits.pids)

    def directories(self, path: PurePosixPath) -> Iterator[Path]:
        yield self._directory(path)

    def everywhere(self, path: PurePosixPath) -> Iterator[Path]:
        """There is but one hierarchy."""
        yield self._directory(path)

    def _directory(self, path: PurePosixPath) -> Path:
        return self._mount / path.relative_to("/")

    def _enable_in(self, parent: Path) -> None:
        """Hand the controllers of `parent` on to its children, each on its own: one may be refused."""
        with suppress(FileNotFoundError):
            available = (parent / "cgroup.controllers").read_text().split()
            enabled = (parent / "cgroup.subtree_control").read_text().split()
            for controller in _WANTED:
                if controller in available and controller not in enabled:
                    with suppress(OSError):
                        (parent / "cgroup.subtree_control").write_text(f"+{controller}")
