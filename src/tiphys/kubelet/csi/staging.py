"""What is staged on the node, and taking it away after the last pod.

A pod does not wait for that: a driver that cannot unstage is asked again with back-off, until it can or
until another pod has the volume staged anew. Until then the volume counts as in use, also for a kubelet
started anew: what is staged has a record of its own beside the staging path.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from tiphys.api.csi import csi_pb2 as csi
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.kubelet.csi.attach import Attachments
from tiphys.kubelet.csi.client import CSIError
from tiphys.kubelet.csi.drivers import Driver, Drivers
from tiphys.kubelet.csi.record import (
    FILE,
    PERSISTENT,
    Progress,
    Record,
    record_directory,
    records,
    staged_records,
    staging_path,
)
from tiphys.kubelet.mounts import unmount
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.volumes.plugin import VolumeError
from tiphys.kubelet.waiting import wait_event

log = get_logger(__name__)

FIRST_RETRY: Final = 0.5  # seconds, doubles
LONGEST_RETRY: Final = 122.0
STAGED: Final = "staged"  # holds the volume, as pods do by their uid


def stages(driver: Driver, record: Record) -> bool:
    """Whether the volume is mounted for the node before it is for a pod. An inline volume has one pod only."""
    return record.lifecycle == PERSISTENT and driver.has(csi.NodeServiceCapability.RPC.STAGE_UNSTAGE_VOLUME)


@dataclass(slots=True)
class _Pending:
    """A volume to unstage: when to try, and how long to wait after the next failure."""

    record: Record
    at: float
    pause: float = FIRST_RETRY


class Staging:
    """The staged volumes of the node."""

    def __init__(self, drivers: Drivers, attachments: Attachments, paths: Paths, clock: Clock) -> None:
        self._drivers = drivers
        self._attachments = attachments
        self._paths = paths
        self._clock = clock
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._staged: set[Path] = set()
        self._pending: dict[tuple[str, str], _Pending] = {}
        self._more = asyncio.Event()

    def lock(self, record: Record) -> asyncio.Lock:
        """Held by whoever does anything to a volume."""
        return self._locks.setdefault((record.driver, record.handle), asyncio.Lock())

    def is_staged(self, record: Record) -> bool:
        return staging_path(self._paths, record) in self._staged

    async def stage(self, driver: Driver, record: Record, call: csi.NodeStageVolumeRequest) -> None:
        """Have it staged; the caller holds the lock. Raises CSIError."""
        path, directory = staging_path(self._paths, record), record_directory(self._paths, record)
        await asyncio.to_thread(path.mkdir, 0o750, parents=True, exist_ok=True)
        await asyncio.to_thread(replace(record, progress=Progress.STAGING).save, directory)
        try:
            await driver.client.stage(call)
        except CSIError as error:
            if error.final and not await asyncio.to_thread(self._is_published, record):
                await asyncio.to_thread(_forget, directory, path)
            raise
        self._staged.add(path)

    def unstage_soon(self, record: Record) -> None:
        """A pod that had it staged is gone: unstage it unless others have it."""
        if record.attachment:
            self._attachments.hold(record.driver, record.handle, STAGED)
        self._pending[record.driver, record.handle] = _Pending(record, self._clock.monotonic())
        self._more.set()

    async def recover(self) -> None:
        """Take up what an earlier kubelet has left staged without a pod."""
        for record in await asyncio.to_thread(lambda: list(staged_records(self._paths))):
            if not await asyncio.to_thread(self._is_used, record):
                self.unstage_soon(record)

    async def run(self) -> None:
        """Unstage what has to be, until cancelled."""
        while True:
            self._more.clear()
            now = self._clock.monotonic()
            due = [key for key, pending in self._pending.items() if pending.at <= now]
            await asyncio.gather(*(self._try(key) for key in due))
            waiting = [pending.at for pending in self._pending.values()]
            pause = max(0.0, min(waiting) - self._clock.monotonic()) if waiting else None
            await wait_event(self._more, self._clock, pause)

    async def _try(self, key: tuple[str, str]) -> None:
        pending = self._pending[key]
        record = pending.record
        try:
            async with self.lock(record):
                if not await asyncio.to_thread(self._is_used, record):
                    await self._unstage(record)
        except (VolumeError, OSError) as error:
            log.warning("unstaging volume %s failed: %s", record.volume, error)
            pending.at = self._clock.monotonic() + pending.pause
            pending.pause = min(pending.pause * 2, LONGEST_RETRY)
            return
        if self._pending.get(key) is pending:
            del self._pending[key]
            self._attachments.release(record.driver, record.handle, STAGED)

    async def _unstage(self, record: Record) -> None:
        driver = self._drivers.get(record.driver)
        path = staging_path(self._paths, record)
        # Whatever comes of the call: the next pod has to have it staged again.
        self._staged.discard(path)
        if stages(driver, record):
            call = csi.NodeUnstageVolumeRequest(volume_id=record.handle, staging_target_path=str(path))
            await driver.client.unstage(call)
        await asyncio.to_thread(_forget, record_directory(self._paths, record), path)

    def _is_used(self, record: Record) -> bool:
        """Whether a pod of the node has the volume staged, or may have. Reads files."""
        found = (one for _, one in records(self._paths) if one.same_volume(record))
        return any(one.progress != Progress.ATTACHING for one in found)

    def _is_published(self, record: Record) -> bool:
        """Whether a pod of the node has the volume, from an earlier staging. Reads files."""
        found = (one for _, one in records(self._paths) if one.same_volume(record))
        return any(one.progress == Progress.PUBLISHING for one in found)


def remove_target(path: Path) -> None:
    """Remove what a driver may leave of a path it mounted at. A mount that is left is taken away first."""
    unmount(path)
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def _forget(directory: Path, path: Path) -> None:
    remove_target(path)
    (directory / FILE).unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()
