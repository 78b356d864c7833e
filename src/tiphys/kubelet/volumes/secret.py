"""secret volumes, kept in memory only. https://kubernetes.io/docs/concepts/storage/volumes/#secret"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiphys.api.core.v1 import Secret, Volume
from tiphys.kubelet.volumes.memory import release, write_in_memory
from tiphys.kubelet.volumes.payload import DEFAULT_MODE, keyed_files, secret_data
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext, VolumeError
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName


@dataclass(frozen=True, slots=True)
class SecretPlugin:
    """Shows a Secret's keys as files of a tmpfs, and follows it."""

    name: ClassVar[str] = "kubernetes.io/secret"
    read: Callable[[ObjectName], Awaitable[Secret]]

    def handles(self, volume: Volume) -> bool:
        return volume.secret is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        source = context.volume.secret
        assert source is not None
        optional = bool(source.optional)
        try:
            data = secret_data(await self.read(ObjectName(context.pod.metadata.namespace, source.secret_name)))
        except NotFoundError as error:
            if not optional:
                raise VolumeError(error.message) from error
            data = {}
        mode = DEFAULT_MODE if source.default_mode is None else source.default_mode
        files = keyed_files(data, source.items, mode, "secret", optional=optional)
        await asyncio.to_thread(write_in_memory, context.directory, files, context.fs_group)
        return Mounted(path=context.directory)

    async def tear_down(self, directory: Path) -> None:
        await asyncio.to_thread(release, directory)
