"""Root file systems of containers: overlayfs over the image's layers, and what the container writes beside.

lowerdir  layers of the image store, highest first
upperdir  <root>/containers/<id>/diff      survives until the container is removed
workdir   <root>/containers/<id>/work
mounted   <run>/containers/<id>/rootfs     while the container runs
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tiphys.runtime import linux

# The kernel takes mount options in one page.
MAX_OPTIONS: Final = 4095


class TooManyLayers(Exception):
    """The image's layers do not fit into one mount."""


def mount_overlay(target: Path, layers: Sequence[Path], *, upper: Path, work: Path) -> None:
    """Mount `layers` (lowest first) with a writable `upper` at `target`.

    `volatile` lets the kernel skip syncing what the container writes when it is unmounted (Linux 5.10).
    """
    for directory in (target, upper, work):
        directory.mkdir(parents=True, exist_ok=True)
    # The root directory of the image gives its mode and owner to the container's.
    if layers:
        found = layers[-1].stat()
        os.chmod(upper, stat.S_IMODE(found.st_mode))
        os.chown(upper, found.st_uid, found.st_gid)
    lower = ":".join(_escape(layer) for layer in reversed(layers))
    options = f"lowerdir={lower},upperdir={_escape(upper)},workdir={_escape(work)}"
    if len(options) + len(",volatile") > MAX_OPTIONS:
        raise TooManyLayers(f"an image of {len(layers)} layers cannot be mounted at {target}")
    shutil.rmtree(work / "work" / "incompat", ignore_errors=True)  # left by a machine that lost power
    try:
        linux.mount("overlay", target, "overlay", 0, options + ",volatile")
    except OSError as error:
        if error.errno != 22:
            raise
        linux.mount("overlay", target, "overlay", 0, options)


def mount_read_only(target: Path, layers: Sequence[Path]) -> None:
    """Mount an image's layers (lowest first) at `target` for reading only: an image volume."""
    target.mkdir(parents=True, exist_ok=True)
    if len(layers) == 1:
        linux.bind(layers[0], target, read_only=True)
        return
    linux.mount(
        "overlay", target, "overlay", linux.MS_RDONLY, "lowerdir=" + ":".join(_escape(x) for x in reversed(layers))
    )


def _escape(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def make_shm(target: Path, size: int = 64 << 20) -> None:
    """/dev/shm of a pod: memory shared by its containers, 64 MiB as other runtimes give."""
    target.mkdir(parents=True, exist_ok=True)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("shm", target, "tmpfs", flags, f"mode=1777,size={size}")


def prepare_volumes(rootfs: Path, volumes: Iterable[str], taken: Iterable[str], keep: Path) -> list[tuple[str, Path]]:
    """Directories for the image's VOLUMEs with what the image has there: (path in the container, path here).

    A volume at a place the request mounts itself is left out.
    """
    skip = {posixpath.normpath(path) for path in taken}
    made = []
    root = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, volume in enumerate(volumes):
            path = posixpath.normpath(posixpath.join("/", volume))
            if path in skip:
                continue
            directory = keep / str(number)
            directory.mkdir(parents=True, exist_ok=True)
            _copy_content(root, path, directory)
            made.append((path, directory))
    finally:
        os.close(root)
    return made


def _copy_content(root: int, path: str, target: Path) -> None:
    try:
        fd = linux.open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # the image has nothing there
    try:
        found = os.fstat(fd)
        source = f"/proc/self/fd/{fd}"
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, copy_function=_copy_owned)
        os.chown(target, found.st_uid, found.st_gid)
        os.chmod(target, stat.S_IMODE(found.st_mode))
    finally:
        os.close(fd)


def _copy_owned(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=False)
    found = os.lstat(source)
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
