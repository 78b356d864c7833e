"""subPath: one file or directory of a volume, bound where the container cannot move it.

A container may write links into its own volume; a path that is only checked and then used could
lead out of it by the time it is mounted. So every component is opened without following links, and
what was opened, not its name, is bound. Blocks on the file system.
https://kubernetes.io/docs/concepts/storage/volumes/#using-subpath
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tiphys.kubelet.mounts import bind, unmount
from tiphys.kubelet.volumes.plugin import VolumeError


def bind_subpath(volume: Path, subpath: str, target: Path) -> Path:
    """Bind `subpath` of `volume` at `target` and return it; a missing directory is made.

    Raises VolumeError when the path leaves the volume.
    """
    if os.path.isabs(subpath) or ".." in Path(subpath).parts:
        raise VolumeError(f"subPath must be a relative path inside the volume: {subpath}")
    root = os.path.realpath(volume)
    # Links that stay inside are allowed (a ConfigMap's keys are links): resolve first, then walk without any.
    resolved = os.path.realpath(os.path.join(root, subpath))
    if resolved != root and not resolved.startswith(root.rstrip("/") + "/"):
        raise VolumeError(f'subpath "{subpath}" not within volume path "{volume}"')
    descriptor = _open(root, os.path.relpath(resolved, root))
    try:
        unmount(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        bind(f"/proc/self/fd/{descriptor}", target)
    finally:
        os.close(descriptor)
    return target


def _open(root: str, relative: str) -> int:
    """A descriptor of `root/relative`, reached without following a link; missing directories are made."""
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in Path(relative).parts:
        try:
            try:
                below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            except FileNotFoundError:
                _make(part, descriptor)
                below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        except OSError as error:
            raise VolumeError(f"subPath {relative}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        descriptor = below
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            # Such a descriptor is of the link itself: whoever mounts it goes where the link leads.
            os.close(descriptor)
            raise VolumeError(f"subPath {relative}: unexpected symlink found {part}")
    return descriptor


def _make(name: str, parent: int) -> None:
    """A directory like its parent: same mode, same group, so that fsGroup reaches it."""
    status = os.fstat(parent)
    os.mkdir(name, 0o750, dir_fd=parent)
    os.chown(name, -1, status.st_gid, dir_fd=parent, follow_symlinks=False)
    os.chmod(f"/proc/self/fd/{parent}/{name}", status.st_mode & 0o7777)
