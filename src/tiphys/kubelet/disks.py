"""Block devices as file systems: found out, made where there is none, checked and mounted. All of it blocks.

What is on a device is asked of blkid(8), so that data is never formatted over: only a device on which
it finds nothing at all gets a file system. https://kubernetes.io/docs/concepts/storage/volumes/#local
"""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

DEFAULT_FILE_SYSTEM: Final = "ext4"
_NOTHING_FOUND: Final = 2  # blkid's exit status
_REPAIRED: Final = 1  # fsck's: errors were there and are corrected
_UNREPAIRED: Final = 4
_MAKE_OPTIONS: Final = {
    # -F: a whole device is meant; -m0: no blocks kept back for root.
    "ext3": ("-F", "-m0"),
    "ext4": ("-F", "-m0"),
    "xfs": ("-f",),
}


class DiskError(OSError):
    """A tool refused; the text is what it said."""


def is_block_device(path: Path) -> bool:
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


def mount_device(
    device: Path, target: Path, *, kind: str, options: Sequence[str] = (), read_only: bool = False
) -> None:
    """Mount the file system of `device` at `target`, after making one of `kind` where there is nothing.

    Raises DiskError; also where a read-only device would have to be formatted.
    """
    found = file_system_of(device)
    if not found:
        if read_only:
            raise DiskError(f"cannot mount unformatted disk {device} as we are manipulating it in read-only mode")
        kind = kind or DEFAULT_FILE_SYSTEM
        _run(f"mkfs.{kind}", *_MAKE_OPTIONS.get(kind, ()), str(device))
    elif not read_only:
        _check(device)
    target.mkdir(mode=0o750, parents=True, exist_ok=True)
    chosen = ",".join([*options, "ro" if read_only else "rw"])
    _run("mount", "-t", found or kind, "-o", chosen, str(device), str(target))


def file_system_of(device: Path) -> str:
    """The kind of file system on `device`; "" when the device is empty. Raises DiskError for anything else on it."""
    answer = _tool("blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", str(device))
    if answer.returncode == _NOTHING_FOUND:
        return ""
    if answer.returncode != 0:
        raise DiskError(_said("blkid", answer))
    found = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    if "TYPE" in found:
        return found["TYPE"]
    raise DiskError(f"{device} has a partition table ({found.get('PTTYPE', 'unknown')}), not a file system")


def grow_file_system(device: Path, mounted: Path) -> None:
    """Let the file system of `device`, mounted at `mounted`, fill its device. Raises DiskError."""
    kind = file_system_of(device)
    if kind in ("ext3", "ext4"):
        _run("resize2fs", str(device))
    elif kind == "xfs":
        _run("xfs_growfs", "-d", str(mounted))
    elif kind == "btrfs":
        _run("btrfs", "filesystem", "resize", "max", str(mounted))
    else:
        raise DiskError(f"resize of format {kind} is not supported for device {device} mounted at {mounted}")


def _check(device: Path) -> None:
    """Repair what can be repaired by itself; a machine without fsck mounts unchecked, as one with a clean disk."""
    try:
        answer = _tool("fsck", "-a", str(device))
    except FileNotFoundError:
        return
    if answer.returncode & ~_REPAIRED == _UNREPAIRED:
        raise DiskError(f"'fsck' found errors on device {device} but could not correct them: {answer.stdout}.")


def _run(*command: str) -> None:
    try:
        answer = _tool(*command)
    except FileNotFoundError as error:
        raise DiskError(f"{command[0]} is not installed on the node") from error
    if answer.returncode != 0:
        raise DiskError(_said(command[0], answer))


def _said(tool: str, answer: subprocess.CompletedProcess[str]) -> str:
    return f"{tool} failed: exit status {answer.returncode}: {(answer.stderr or answer.stdout).strip()}"


def _tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
