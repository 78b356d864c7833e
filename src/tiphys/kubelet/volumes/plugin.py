"""The contract of a volume plugin.

A plugin makes the content of one volume at a path of the node. `set_up` may be called any number of
times for the same volume and must then bring it up to date; `tear_down` knows only the directory,
because the pod and its spec may be long gone when a kubelet cleans up after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from tiphys.api.core.v1 import Pod, Volume


class VolumeError(Exception):
    """The volume cannot be had now; the text becomes the end of the FailedMount event."""


class InfeasibleError(VolumeError):
    """What was asked of the volume cannot be done, now or later."""


class MadeBy(Protocol):
    """Told who makes a volume, just before it is made: of a claim this is only known on the way."""

    def __call__(self, plugin: str, *, block: bool = False) -> None: ...


def _nobody_asks(plugin: str, *, block: bool = False) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeContext:
    """One volume to set up. `directory` is the plugin's own place for it."""

    pod: Pod
    volume: Volume
    directory: Path
    pod_ips: Sequence[str] = ()
    host_ips: Sequence[str] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)
    # Places of several volumes of the pod, for kinds that refer to another: by plugin and name.
    place: Callable[[str, str], Path] | None = None
    made_by: MadeBy = _nobody_asks

    @property
    def fs_group(self) -> int | None:
        context = self.pod.spec.security_context
        return context.fs_group if context else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A volume that is ready: its path, and in how many seconds it needs another `set_up` (None: only on change).

    `device`: the path is a block device for `volumeDevices`, nothing to mount.
    """

    path: Path
    refresh_after: float | None = None
    read_only: bool = False
    device: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a volume holds, in bytes and inodes; None where its driver does not say."""

    available: int | None = None
    capacity: int | None = None
    used: int | None = None
    inodes_free: int | None = None
    inodes: int | None = None
    inodes_used: int | None = None


class VolumePlugin(Protocol):
    """One kind of volume."""

    name: ClassVar[str]  # kubernetes.io/…, as in the directory's name

    def handles(self, volume: Volume) -> bool:
        """Whether the volume is of this kind."""

    async def set_up(self, context: VolumeContext) -> Mounted:
        """Make the volume or bring it up to date. Raises VolumeError; OSError where the file system refuses."""

    async def tear_down(self, directory: Path) -> None:
        """Undo what `set_up` did outside plain files of `directory`; those are removed by the caller."""
