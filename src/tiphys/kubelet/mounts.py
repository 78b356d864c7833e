"""Mounts on the node: tmpfs, bind, and taking them away again. Thin over mount(2)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MNT_DETACH: Final = 0x2
UMOUNT_NOFOLLOW: Final = 0x8

_libc: Final = ctypes.CDLL(None, use_errno=True)


def mount_tmpfs(target: Path, *, size: int | None = None, mode: int = 0o755) -> None:
    """Mount a tmpfs; `size` in bytes, None is the kernel's own limit (half of memory)."""
    options = f"mode={mode:o}" + (f",size={size}" if size else "")
    _mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options)


def bind(source: Path | str, target: Path) -> None:
    """Show `source` at `target`, with the mounts below it."""
    _mount(str(source), target, None, MS_BIND | MS_REC, None)


def unmount(target: Path) -> None:
    """Take away what is mounted at `target`, at once, also when it is in use; nothing there is fine."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        code = ctypes.get_errno()
        if code not in (22, 2):  # EINVAL: no mount there, ENOENT: not even a path
            raise OSError(code, os.strerror(code), str(target))


def is_mount(target: Path) -> bool:
    return str(target) in mount_points(target)


def mount_points(below: Path) -> list[str]:
    """Every mount at or under `below`, the innermost first."""
    prefix = os.path.realpath(below)
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = _unescape(line.split(" ", 5)[4])
            if point == prefix or point.startswith(prefix.rstrip("/") + "/"):
                found.append(point)
    return found[::-1]


def unmount_below(directory: Path) -> None:
    """Take away every mount at or under `directory`."""
    for point in mount_points(directory):
        unmount(Path(point))


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str | None) -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def _unescape(text: str) -> str:
    # mountinfo writes space, tab, newline and backslash as three octal digits.
    for code in ("040", "011", "012", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text
