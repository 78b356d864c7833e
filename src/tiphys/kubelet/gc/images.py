"""Removes images that no container uses when the disk fills up.

https://kubernetes.io/docs/concepts/architecture/garbage-collection/#container-image-lifecycle: above the high
threshold the longest unused go first until the low one is reached; young images stay.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from tiphys.api.cri import api_pb2 as cri
from tiphys.base.log import get_logger
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.pods.manager import PodManager
from tiphys.kubelet.pods.services import PodServices

log = get_logger(__name__)

INTERVAL: Final = 300.0  # seconds


def removable(
    images: Iterable[cri.Image],
    in_use: set[str],
    last_used: Mapping[str, datetime],
    first_seen: Mapping[str, datetime],
    now: datetime,
    minimum_age: timedelta,
) -> list[cri.Image]:
    """Unused images that are old enough, the longest unused first."""
    epoch = datetime.min.replace(tzinfo=now.tzinfo)
    found = [
        image
        for image in images
        if image.id not in in_use and not image.pinned and now - first_seen.get(image.id, now) >= minimum_age
    ]
    return sorted(found, key=lambda image: (last_used.get(image.id, epoch), first_seen.get(image.id, epoch)))


class ImageCollector:
    """Keeps the image store within its bounds."""

    def __init__(self, services: PodServices, manager: PodManager) -> None:
        self._services = services
        self._manager = manager
        self._first_seen: dict[str, datetime] = {}
        self._last_used: dict[str, datetime] = {}

    async def run(self) -> None:
        """Look every five minutes until cancelled."""
        while True:
            await self._services.clock.sleep(INTERVAL)
            try:
                await self.collect()
            except CRIError as error:
                log.warning("collecting images failed: %s", error)

    async def collect(self) -> None:
        """Free space if the image file system is above the high threshold. Raises CRIError."""
        config = self._services.config
        images = await self._note(await self._services.runtime.list_images())
        used, capacity = await self._space()
        if capacity == 0 or used * 100 < capacity * config.image_gc_high_threshold_percent:
            return
        wanted = used - capacity * config.image_gc_low_threshold_percent // 100
        freed = await self._remove(images, wanted, config.image_minimum_gc_age)
        if freed < wanted:
            log.warning("wanted to free %d bytes of images, freed %d", wanted, freed)

    async def remove_unused(self) -> int:
        """Remove every image nobody uses, whatever its age; returns the bytes freed. Raises CRIError."""
        images = await self._note(await self._services.runtime.list_images())
        return await self._remove(images, None, timedelta(0))

    async def _note(self, images: list[cri.Image]) -> list[cri.Image]:
        now = self._services.clock.now()
        used = self._in_use()
        for image in images:
            self._first_seen.setdefault(image.id, now)
            if image.id in used:
                self._last_used[image.id] = now
        return images

    async def _remove(self, images: list[cri.Image], wanted: int | None, age: timedelta) -> int:
        freed = 0
        now = self._services.clock.now()
        for image in removable(images, self._in_use(), self._last_used, self._first_seen, now, age):
            if wanted is not None and freed >= wanted:
                break
            log.info("removing image %s (%d bytes)", image.id, image.size)
            await self._services.runtime.remove_image(cri.ImageSpec(image=image.id))
            freed += image.size
        return freed

    def _in_use(self) -> set[str]:
        used: set[str] = set()
        for worker in self._manager.workers.values():
            for container in worker.runtime.containers:
                used.update((container.image_id, container.image_ref, container.image))
        return used

    async def _space(self) -> tuple[int, int]:
        """Bytes used and bytes in all of the file system that holds the images."""
        answer = await self._services.runtime.image_fs()
        for item in answer.image_filesystems:
            try:
                stat = await asyncio.to_thread(os.statvfs, item.fs_id.mountpoint)
            except OSError:
                continue
            return (stat.f_blocks - stat.f_bavail) * stat.f_frsize, stat.f_blocks * stat.f_frsize
        return 0, 0
