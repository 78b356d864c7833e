"""Volumes whose content must never reach a disk: a tmpfs under the files. Blocks on the file system."""

from __future__ import annotations

from pathlib import Path

from tiphys.kubelet.mounts import is_mount, mount_tmpfs, unmount
from tiphys.kubelet.volumes.atomic import Payload
from tiphys.kubelet.volumes.payload import write_payload


def write_in_memory(directory: Path, payload: Payload, group: int | None) -> None:
    """As `write_payload`, on a tmpfs mounted at `directory` when it is not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    if not is_mount(directory):
        mount_tmpfs(directory, mode=0o755)
    write_payload(directory, payload, group)


def release(directory: Path) -> None:
    """Take the tmpfs away, with everything in it."""
    unmount(directory)
