"""The tree of cgroups that divides the node among its pods.

```
 <cgroupRoot>/kubepods/                 all pods: what is allocatable
      pod<uid>/                         guaranteed
      burstable/ pod<uid>/              shares by the sum of requests
      besteffort/ pod<uid>/             the least shares there are
```
The runtime puts a container's own cgroup inside its pod's. https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.qos import BEST_EFFORT, BURSTABLE, GUARANTEED, qos_class
from tiphys.kubelet.resources import (
    MIN_SHARES,
    QUOTA_PERIOD,
    cpu_quota,
    cpu_shares,
    fully_limited,
    milli,
    pod_amounts,
    whole,
)

KUBEPODS: Final = "kubepods"
MOUNT: Final = Path("/sys/fs/cgroup")
_POD_PREFIX: Final = "pod"
_CLASS_DIRECTORIES: Final = {GUARANTEED: "", BURSTABLE: "burstable", BEST_EFFORT: "besteffort"}
# Processes that were just killed need a moment to leave their cgroup.
REMOVE_TRIES: Final = 50
REMOVE_PAUSE: Final = 0.02  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one cgroup gets; None leaves the kernel's default."""

    cpu_shares: int | None = None
    cpu_quota: int | None = None  # µs a period of 100 ms; −1 is none
    memory: int | None = None  # bytes; −1 is none
    pids: int | None = None


class CgroupDriver(Protocol):
    """One version of the kernel's interface. Paths are relative to the hierarchies. All calls block briefly."""

    unified: bool

    def create(self, path: PurePosixPath, limits: Limits) -> None:
        """Make the cgroup (its parent exists) or bring its limits up to date."""

    def everywhere(self, path: PurePosixPath) -> Iterator[Path]:
        """Every directory the cgroup may have, in any hierarchy; for removing it."""

    def directories(self, path: PurePosixPath) -> Iterator[Path]:
        """Where the cgroup is, in every hierarchy that has it."""


def pod_limits(pod: Pod, pids_limit: int = -1) -> Limits:
    """The limits of a pod's cgroup: the sum of its containers', where every one of them has a limit."""
    requests, limits = pod_amounts(pod, "requests"), pod_amounts(pod, "limits")
    shares = cpu_shares(milli(requests)) if milli(requests) else cpu_shares(milli(limits))
    return Limits(
        cpu_shares=MIN_SHARES if qos_class(pod) == BEST_EFFORT else shares,
        cpu_quota=cpu_quota(milli(limits)) if fully_limited(pod, "cpu") else None,
        memory=whole(limits) if fully_limited(pod, "memory") else None,
        pids=pids_limit if pids_limit > 0 else None,
    )


class CgroupTree:
    """Makes and removes the cgroups of pods under one root."""

    def __init__(self, driver: CgroupDriver, root: str, pids_limit: int = -1) -> None:
        self._driver = driver
        self._root = PurePosixPath("/") / root.strip("/")
        self._kubepods = self._root / KUBEPODS
        self._pids_limit = pids_limit

    @property
    def unified(self) -> bool:
        return self._driver.unified

    def prepare(self, allocatable: Limits) -> None:
        """Make the root and the cgroups of the classes."""
        for parent in reversed((self._root, *self._root.parents)):
            if parent != PurePosixPath("/"):
                self._driver.create(parent, Limits())
        self._driver.create(self._kubepods, allocatable)
        self._driver.create(self._kubepods / "burstable", Limits(cpu_shares=MIN_SHARES))
        self._driver.create(self._kubepods / "besteffort", Limits(cpu_shares=MIN_SHARES))

    def path_of(self, pod: Pod) -> str:
        """The pod's cgroup, as the runtime is told it."""
        return str(self._path(qos_class(pod), pod.metadata.uid))

    def create_pod(self, pod: Pod) -> None:
        """Make the pod's cgroup, or bring its limits up to date."""
        self._driver.create(self._path(qos_class(pod), pod.metadata.uid), pod_limits(pod, self._pids_limit))

    def resize_pod(self, pod: Pod, limits: Limits) -> None:
        """Give the pod's cgroup other limits; −1 takes one away."""
        self._driver.create(self._path(qos_class(pod), pod.metadata.uid), limits)

    def share_among_burstable(self, pods: Iterable[Pod]) -> None:
        """Weigh the burstable class by what its pods ask for together, so that it holds its own as a group."""
        asked = sum(milli(pod_amounts(pod, "requests")) for pod in pods if qos_class(pod) == BURSTABLE)
        self._driver.create(self._kubepods / "burstable", Limits(cpu_shares=cpu_shares(asked)))

    def remove_pod(self, uid: PodUID) -> None:
        """Remove the pod's cgroup and what is in it; processes that are left are killed. Absent is fine."""
        for kind in _CLASS_DIRECTORIES:
            for directory in list(self._driver.everywhere(self._path(kind, uid))):
                _remove(directory)

    def remove(self) -> None:
        """Remove the whole tree, down to the root cgroup itself."""
        for directory in list(self._driver.everywhere(self._root)):
            if self._root != PurePosixPath("/"):
                _remove(directory)

    def pods(self) -> set[PodUID]:
        """The pods that have a cgroup."""
        found: set[PodUID] = set()
        for kind in _CLASS_DIRECTORIES.values():
            for directory in self._driver.directories(self._kubepods / kind):
                with suppress(FileNotFoundError):
                    found.update(
                        PodUID(entry.name[len(_POD_PREFIX) :])
                        for entry in os.scandir(directory)
                        if entry.is_dir() and entry.name.startswith(_POD_PREFIX)
                    )
        return found

    def directories(self, pod: Pod) -> list[Path]:
        """Where the pod's cgroup is, for reading its statistics."""
        return list(self._driver.directories(self._path(qos_class(pod), pod.metadata.uid)))

    def _path(self, kind: str, uid: str) -> PurePosixPath:
        return self._kubepods / _CLASS_DIRECTORIES[kind] / f"{_POD_PREFIX}{uid}"


def _remove(directory: Path) -> None:
    """Remove a cgroup and those below it, killing what still runs there."""
    for _ in range(REMOVE_TRIES):
        try:
            for below, _, _ in os.walk(directory, topdown=False):
                os.rmdir(below)
            return
        except FileNotFoundError:
            return
        except OSError:
            _kill(directory)
            time.sleep(REMOVE_PAUSE)
    raise OSError(f"cgroup {directory} cannot be removed: something in it does not end")


def _kill(directory: Path) -> None:
    for below, _, _ in os.walk(directory):
        with suppress(OSError):
            for line in (Path(below) / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(line), signal.SIGKILL)


def write(path: Path, value: object) -> None:
    """Write one control file; what this kernel does not have is passed over."""
    with suppress(FileNotFoundError):
        path.write_text(str(value))


__all__ = ["QUOTA_PERIOD", "CgroupDriver", "CgroupTree", "Limits", "pod_limits", "write"]
