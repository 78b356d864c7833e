"""Root file systems of containers: overlayfs over the image's layers, and what the container writes beside.

lowerdir  layers of the image store, highest first
upperdir  <root>/containers/<id>/diff      survives until the container is removed
workdir   <root>/containers/<id>/work
mounted   <run>/containers/<id>/rootfs     while the container runs
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tiphys.runtime import linux
from tiphys.runtime.usernamespaces import UserMapping

# The kernel takes mount options in one page.
MAX_OPTIONS: Final = 4095


class TooManyLayers(Exception):
    """The image's layers do not fit into one mount."""


@dataclass(frozen=True, slots=True)
class MappedUsers:
    """Users of a pod with a user namespace of its own: whose files of images become, and the pinned namespace."""

    mapping: UserMapping
    namespace: Path


def mount_overlay(
    target: Path, layers: Sequence[Path], *, upper: Path, work: Path, users: MappedUsers | None = None
) -> None:
    """Mount `layers` (lowest first) with a writable `upper` at `target`; their files belong to `users`.

    `volatile` lets the kernel skip syncing what the container writes when it is unmounted (Linux 5.10).
    """
    if users is not None:
        with _mapped(layers, users, target.with_name("layers")) as mapped:
            mount_overlay(target, mapped, upper=upper, work=work)
        return
    for directory in (target, upper, work):
        directory.mkdir(parents=True, exist_ok=True)
    # The root directory of the image gives its mode and owner to the container's.
    if layers:
        found = layers[-1].stat()  # of the pod's users where the layers are mounted for them
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


@contextmanager
def _mapped(layers: Sequence[Path], users: MappedUsers, place: Path) -> Iterator[list[Path]]:
    """The layers with the pod's users, at paths that hold while they are mounted somewhere else.

    Overlayfs keeps copies of the mounts it is given; an overlay itself cannot be mapped.
    """
    made: list[Path] = []
    place.mkdir(parents=True, exist_ok=True)
    try:
        for number, layer in enumerate(layers):
            mapped = place / str(number)
            mapped.mkdir(exist_ok=True)
            linux.bind_mapped(layer, mapped, users.namespace)
            made.append(mapped)
        yield made
    finally:
        remove_mounts(place)


def mount_read_only(target: Path, layers: Sequence[Path], *, work: Path, users: MappedUsers | None = None) -> None:
    """Mount an image's layers (lowest first) at `target` for reading only: an image volume.

    `work`: a directory that does not exist, for the time of the call.
    """
    target.mkdir(parents=True, exist_ok=True)
    if users is not None:
        with _mapped(layers, users, work) as mapped:
            mount_read_only(target, mapped, work=work)
        return
    if len(layers) == 1:
        linux.bind(layers[0], target, read_only=True)
        return
    linux.mount(
        "overlay", target, "overlay", linux.MS_RDONLY, "lowerdir=" + ":".join(_escape(x) for x in reversed(layers))
    )


def bind_for(users: MappedUsers, source: Path, target: Path, *, read_only: bool, all_read_only: bool) -> None:
    """Show the file or directory `source` at `target` as the pod's users see it. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    try:
        linux.bind_mapped(source, target, users.namespace, read_only=read_only, all_read_only=all_read_only)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(
            error.errno,
            f"failed to set MOUNT_ATTR_IDMAP on {source}: {error.strerror} "
            "(maybe the filesystem used doesn't support idmap mounts on this kernel?)",
        ) from error


def remove_mounts(directory: Path) -> None:
    """Take away what is mounted on the entries of `directory`, and it; none of what was mounted is touched."""
    if directory.is_dir():
        for entry in directory.iterdir():
            linux.unmount(entry)
            entry.unlink() if entry.is_file() else entry.rmdir()
        directory.rmdir()


def _escape(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def make_shm(target: Path, size: int = 64 << 20, owner: tuple[int, int] = (0, 0)) -> None:
    """/dev/shm of a pod: memory shared by its containers, 64 MiB as other runtimes give. `owner`: user and group."""
    target.mkdir(parents=True, exist_ok=True)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("shm", target, "tmpfs", flags, f"mode=1777,size={size},uid={owner[0]},gid={owner[1]}")


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
