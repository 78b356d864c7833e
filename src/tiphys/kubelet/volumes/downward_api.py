"""downwardAPI volumes. https://kubernetes.io/docs/concepts/storage/volumes/#downwardapi"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiphys.api.core.v1 import Volume
from tiphys.kubelet.volumes.payload import DEFAULT_MODE, downward_files, write_payload
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext


@dataclass(frozen=True, slots=True)
class DownwardAPIPlugin:
    """Shows fields of the pod as files; labels and annotations follow their changes."""

    name: ClassVar[str] = "kubernetes.io/downward-api"

    def handles(self, volume: Volume) -> bool:
        return volume.downward_api is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        source = context.volume.downward_api
        assert source is not None
        mode = DEFAULT_MODE if source.default_mode is None else source.default_mode
        files = downward_files(context, source.items, mode)
        await asyncio.to_thread(write_payload, context.directory, files, context.fs_group)
        return Mounted(path=context.directory)

    async def tear_down(self, directory: Path) -> None:
        return None
