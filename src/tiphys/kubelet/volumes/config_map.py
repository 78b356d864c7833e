"""configMap volumes. https://kubernetes.io/docs/concepts/storage/volumes/#configmap"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiphys.api.core.v1 import ConfigMap, Volume
from tiphys.kubelet.volumes.payload import DEFAULT_MODE, config_map_data, keyed_files, write_payload
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext, VolumeError
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName


@dataclass(frozen=True, slots=True)
class ConfigMapPlugin:
    """Shows a ConfigMap's keys as files, and follows it."""

    name: ClassVar[str] = "kubernetes.io/configmap"
    read: Callable[[ObjectName], Awaitable[ConfigMap]]

    def handles(self, volume: Volume) -> bool:
        return volume.config_map is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        source = context.volume.config_map
        assert source is not None
        optional = bool(source.optional)
        try:
            data = config_map_data(await self.read(ObjectName(context.pod.metadata.namespace, source.name)))
        except NotFoundError as error:
            if not optional:
                raise VolumeError(error.message) from error
            data = {}
        mode = DEFAULT_MODE if source.default_mode is None else source.default_mode
        files = keyed_files(data, source.items, mode, "configmap", optional=optional)
        await asyncio.to_thread(write_payload, context.directory, files, context.fs_group)
        return Mounted(path=context.directory)

    async def tear_down(self, directory: Path) -> None:
        return None
