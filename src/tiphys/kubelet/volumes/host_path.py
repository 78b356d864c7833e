"""hostPath volumes and their type checks. https://kubernetes.io/docs/concepts/storage/volumes/#hostpath"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from tiphys.api.core.v1 import Volume
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext, VolumeError

_CHECKS: Final = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "FileOrCreate": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket file"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


@dataclass(frozen=True, slots=True)
class HostPathPlugin:
    """A path of the node itself."""

    name: ClassVar[str] = "kubernetes.io/host-path"

    def handles(self, volume: Volume) -> bool:
        return volume.host_path is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        source = context.volume.host_path
        assert source is not None
        await asyncio.to_thread(check_host_path, Path(source.path), source.type or "")
        return Mounted(path=Path(source.path))

    async def tear_down(self, directory: Path) -> None:
        return None


def check_host_path(path: Path, kind: str) -> None:
    """Make what `…OrCreate` asks for, then check the type; an empty kind checks nothing."""
    if kind == "":
        return
    if kind == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate" and not path.exists():
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except OSError as error:
            raise VolumeError(f"hostPath type check failed: {error.strerror}: {path}") from error
    test, noun = _CHECKS[kind]
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0
    if not test(mode):
        raise VolumeError(f"hostPath type check failed: {path} is not {noun}")
