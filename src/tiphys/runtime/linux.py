"""The system calls the standard library lacks: mounts, namespaces, openat2, inotify, the subreaper flag.

All functions raise OSError with the errno of the call; ctypes releases the GIL while the kernel works.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Final

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_SLAVE: Final = 0x80000
MS_SHARED: Final = 0x100000
MNT_DETACH: Final = 0x2
UMOUNT_NOFOLLOW: Final = 0x8

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWNET: Final = 0x40000000

PR_SET_CHILD_SUBREAPER: Final = 36

IN_MOVED_TO: Final = 0x80
IN_CLOEXEC: Final = 0x80000
IN_NONBLOCK: Final = 0x800

# openat2(2): the path is looked up as if the directory were "/", symbolic links and ".." included.
RESOLVE_IN_ROOT: Final = 0x10
RESOLVE_NO_MAGICLINKS: Final = 0x02
_SYS_OPENAT2: Final = 437  # this one and those below: the same on every architecture

# open_tree(2), mount_setattr(2), move_mount(2): a copy of a mount, changed before anybody sees it.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 0x1
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_IDMAP: Final = 0x100000

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _check(result: int, *names: str | Path) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *[str(name) for name in names[:1]])
    return result


def mount(source: str | Path, target: str | Path, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    encoded = [os.fsencode(part) for part in (source, target)]
    _check(_libc.mount(*encoded, fstype.encode(), ctypes.c_ulong(flags), data.encode() or None), target)


def bind(source: str | Path, target: str | Path, *, read_only: bool = False) -> None:
    """Make `source` appear at `target`, with everything mounted below it."""
    mount(source, target, "none", MS_BIND | MS_REC)
    if read_only:
        mount("none", target, "none", MS_BIND | MS_REMOUNT | MS_RDONLY)


def bind_mapped(
    source: str | Path, target: str | Path, users: str | Path, *, read_only: bool = False, all_read_only: bool = False
) -> None:
    """As `bind`, but files of user n appear as files of the user that n is in the user namespace at `users`.

    Mounts below `source` come along with their owners as they are; `all_read_only` counts for them too. The file
    system has to know such mounts, else EINVAL: user_namespaces(7), mount_setattr(2), Linux 5.12, tmpfs since 6.3.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    tree = _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), ctypes.c_uint(flags)), source)
    try:
        with open(users, "rb") as namespace:
            wanted = _MOUNT_ATTR_IDMAP | (_MOUNT_ATTR_RDONLY if read_only else 0)
            _set_attributes(tree, _MountAttr(wanted, 0, 0, namespace.fileno()), 0, source)
        if all_read_only:
            _set_attributes(tree, _MountAttr(_MOUNT_ATTR_RDONLY, 0, 0, 0), _AT_RECURSIVE, source)
        moved = _libc.syscall(
            _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
        )
        _check(moved, target)
    finally:
        os.close(tree)


def _set_attributes(tree: int, attributes: _MountAttr, flags: int, name: str | Path) -> None:
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    how = ctypes.c_uint(flags | _AT_EMPTY_PATH)
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", how, ctypes.byref(attributes), size), name)


def unmount(target: str | Path) -> bool:
    """Detach whatever is mounted at `target`; False when nothing is (or the path does not exist)."""
    try:
        _check(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)
    except OSError as error:
        if error.errno in (22, 2):  # EINVAL: not a mount point, ENOENT
            return False
        raise
    return True


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread."""
    _check(_libc.unshare(flags))


def setns(path: str | Path) -> None:
    """Move the calling thread into the namespace at `path`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, 0), path)
    finally:
        os.close(fd)


def set_hostname(name: str) -> None:
    """sethostname(2) in the calling thread's UTS namespace."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, len(encoded)))


def become_subreaper() -> None:
    """Orphaned descendants of this process become its children instead of init's."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` inside the directory `root` (a file descriptor); no symbolic link leads out of it."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    return _check(
        _libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)),
        path,
    )


def inotify_moved_to(directory: str | Path) -> int:
    """An inotify descriptor that reports every file renamed into `directory`."""
    fd = _check(_libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK))
    try:
        _check(_libc.inotify_add_watch(fd, os.fsencode(directory), IN_MOVED_TO), directory)
    except OSError:
        os.close(fd)
        raise
    return fd


def effective_capabilities() -> frozenset[int]:
    """Numbers of the capabilities this process has."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(number for number in range(64) if bits >> number & 1)
    return frozenset()


def architecture() -> str:
    """This machine in the words of image indexes: amd64, arm64, …"""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}.get(machine, machine)
