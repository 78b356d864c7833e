"""The volumes of every pod on the node: set up before its containers, kept current, removed after it.

What is mounted is also found from the directories on disk, so that a kubelet started anew removes
what its predecessor made.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from tiphys.api.core.v1 import Pod, Volume
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.mounts import unmount_below
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import PodUID, uid_of
from tiphys.kubelet.volumes import metrics
from tiphys.kubelet.volumes.metrics import VolumeRecord, total_volumes, volume_plugin
from tiphys.kubelet.volumes.plugin import Mounted, Usage, VolumeContext, VolumeError, VolumePlugin

log = get_logger(__name__)


class MountError(Exception):
    """One or more volumes are not ready; `failures` has a message a volume, worded for the FailedMount event."""

    def __init__(self, failures: Mapping[str, str]) -> None:
        super().__init__("; ".join(failures.values()))
        self.failures = failures


@dataclass(frozen=True, slots=True)
class PodVolumes:
    """The ready volumes of a pod by name, and when the next of them needs renewal (seconds; None: never)."""

    mounted: Mapping[str, Mounted] = field(default_factory=dict)
    refresh_after: float | None = None

    def path(self, name: str) -> Path | None:
        found = self.mounted.get(name)
        return found.path if found else None


class Owner(Protocol):
    """Whoever makes volumes in directories of a name of its own."""

    name: ClassVar[str]

    async def tear_down(self, directory: Path) -> None: ...


@runtime_checkable
class Measurer(Protocol):
    """An owner who can measure what it mounts."""

    name: ClassVar[str]

    async def usage(self, path: Path) -> Usage | None:
        """What the volume mounted at `path` holds; None when it cannot be had."""


class VolumeManager:
    """Finds the plugin of each volume and drives it. `sources`: who else has directories of pods to clean."""

    def __init__(self, plugins: Sequence[VolumePlugin], paths: Paths, sources: Sequence[Owner] = ()) -> None:
        self._plugins = plugins
        self._paths = paths
        self._owners: tuple[Owner, ...] = (*plugins, *sources)
        self._records: dict[PodUID, dict[str, VolumeRecord]] = {}  # by the volume's name

    def expose(self) -> Callable[[], None]:
        """Add how many volumes there are to what is exposed; what is returned takes it away."""

        def series() -> metrics.Series:
            return total_volumes(itertools.chain.from_iterable(of.values() for of in self._records.values()))

        return REGISTRY.computed("gauge", metrics.TOTAL, metrics.TOTAL_HELP, metrics.TOTAL_LABELS, series)

    async def set_up(
        self, pod: Pod, *, host_ips: Sequence[str], allocatable: Mapping[str, str], pod_ips: Sequence[str] = ()
    ) -> PodVolumes:
        """Make every volume of `pod` ready and current, all at once. Raises MountError."""
        volumes = [volume for volume in pod.spec.volumes if volume.image is None]
        results = await asyncio.gather(
            *(self._set_up_one(pod, volume, host_ips, allocatable, pod_ips) for volume in volumes),
            return_exceptions=True,
        )
        mounted: dict[str, Mounted] = {}
        failures: dict[str, str] = {}
        for volume, result in zip(volumes, results, strict=True):
            if isinstance(result, Mounted):
                mounted[volume.name] = result
            elif isinstance(result, Exception):
                failures[volume.name] = f'MountVolume.SetUp failed for volume "{volume.name}" : {result}'
            else:
                raise result
        if failures:
            raise MountError(failures)
        due = [item.refresh_after for item in mounted.values() if item.refresh_after is not None]
        return PodVolumes(mounted, min(due) if due else None)

    async def usage(self, path: Path) -> Usage | None:
        """What the volume mounted at `path` holds, if whoever mounted it knows more than its file system says."""
        for owner in self._owners:
            if isinstance(owner, Measurer) and owner.name.replace("/", "~") in path.parts:
                return await owner.usage(path)
        return None

    async def tear_down(self, uid: PodUID) -> None:
        """Remove everything of the pod's volumes from the node. Raises OSError when something resists."""
        root = self._paths.volumes(uid)
        subpaths = self._paths.subpaths(uid)
        await asyncio.to_thread(_clear_mounts, subpaths)
        # Owners of one name have their directories in common, and take each down by what is recorded in it.
        for owner in {owner.name: owner for owner in self._owners}.values():
            for directory in await asyncio.to_thread(_children, root / owner.name.replace("/", "~")):
                await self._tear_down_one(uid, owner, directory)
        await asyncio.to_thread(_remove, root, subpaths)
        self._records.pop(uid, None)

    async def _tear_down_one(self, uid: PodUID, owner: Owner, directory: Path) -> None:
        made = (record for record in self._records.get(uid, {}).values() if record.path is not None)
        plugin = next((each.plugin for each in made if each.path and each.path.is_relative_to(directory)), owner.name)
        began = time.perf_counter()
        try:
            await owner.tear_down(directory)
        except Exception:
            metrics.observe(metrics.UNMOUNT, plugin, began, succeeded=False)
            raise
        metrics.observe(metrics.UNMOUNT, plugin, began, succeeded=True)

    async def _set_up_one(
        self,
        pod: Pod,
        volume: Volume,
        host_ips: Sequence[str],
        allocatable: Mapping[str, str],
        pod_ips: Sequence[str],
    ) -> Mounted:
        plugin = next((plugin for plugin in self._plugins if plugin.handles(volume)), None)
        if plugin is None:
            raise VolumeError("no volume plugin matched")
        uid = uid_of(pod)
        record = self._records.setdefault(uid, {}).setdefault(volume.name, VolumeRecord())
        context = VolumeContext(
            pod=pod,
            volume=volume,
            directory=self._paths.volume(uid, plugin.name, volume.name),
            pod_ips=pod_ips,
            host_ips=host_ips,
            allocatable=allocatable,
            place=lambda name, which: self._paths.volume(uid, name, which),
            made_by=record.begin,
        )
        if volume.persistent_volume_claim is None and volume.ephemeral is None:
            record.begin(volume_plugin(plugin.name, volume))
        try:
            mounted = await plugin.set_up(context)
        except Exception:
            record.end(succeeded=False)
            raise
        record.end(succeeded=True)
        record.path = mounted.path
        return mounted


def _children(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _clear_mounts(directory: Path) -> None:
    if directory.is_dir():
        unmount_below(directory)


def _remove(*directories: Path) -> None:
    for directory in directories:
        if directory.is_dir():
            # A mount that stayed would lose somebody's data to rmtree: take it away or fail first.
            unmount_below(directory)
            shutil.rmtree(directory)
