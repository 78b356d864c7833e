"""Who a container runs as: numbers for the names that CRI or the image use, looked up in the image's own files.

`/etc/passwd` and `/etc/group` are opened inside the container's root, so that a symbolic link in an image
cannot make the machine's files be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tiphys.runtime import linux

MAX_FILE = 16 << 20  # bytes of /etc/passwd that are looked at


class UserNotFound(Exception):
    """The image has no such user or group."""


@dataclass(frozen=True, slots=True)
class User:
    """Numeric identity of a process, and the home directory for HOME."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of /etc/passwd (`uid`, `gid`, `home`) or /etc/group (`gid`, `members`)."""

    name: str
    uid: int
    gid: int
    home: str = "/"
    members: tuple[str, ...] = ()


def read_lines(root: int, path: str) -> list[str]:
    """Lines of a file in the container's root (a directory descriptor); [] when it is not there."""
    try:
        fd = linux.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_FILE).decode(errors="replace").splitlines()


def passwd_entries(lines: Iterable[str]) -> list[Entry]:
    """Entries of /etc/passwd; lines that are not of its form are passed over."""
    found = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit():
            home = fields[5] if len(fields) > 5 and fields[5] else "/"
            found.append(Entry(fields[0], int(fields[2]), int(fields[3]), home))
    return found


def group_entries(lines: Iterable[str]) -> list[Entry]:
    """Entries of /etc/group."""
    found = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) >= 3 and fields[2].isdigit():
            members = tuple(filter(None, fields[3].split(","))) if len(fields) > 3 else ()
            found.append(Entry(fields[0], 0, int(fields[2]), members=members))
    return found


def resolve(
    user: str,
    *,
    run_as_group: int | None,
    supplemental: Sequence[int],
    merge_image_groups: bool,
    passwd: Sequence[Entry],
    group: Sequence[Entry],
) -> User:
    """The identity for `user`, which is "", "name", "uid", "name:group" or "uid:gid" as in an image's USER.

    A number needs no entry; a name without one raises UserNotFound. `merge_image_groups` adds the groups in
    which the image lists the user (CRI's Merge policy); otherwise only `supplemental` are added (Strict).
    """
    name, _, group_name = user.partition(":")
    entry = _find(passwd, name or "0")
    if entry is None and name and not name.isdigit():
        raise UserNotFound(f"unable to find user {name}: no matching entries in passwd file")
    uid = entry.uid if entry else int(name or "0")
    gid = entry.gid if entry else 0
    if group_name:
        gid = _group_id(group, group_name)
    if run_as_group is not None:
        gid = run_as_group
    groups = [gid]
    if merge_image_groups and entry is not None:
        groups += [candidate.gid for candidate in group if entry.name in candidate.members]
    groups += supplemental
    return User(uid, gid, tuple(dict.fromkeys(groups)), entry.home if entry else "/")


def _find(entries: Sequence[Entry], user: str) -> Entry | None:
    if user.isdigit():
        return next((entry for entry in entries if entry.uid == int(user)), None)
    return next((entry for entry in entries if entry.name == user), None)


def _group_id(entries: Sequence[Entry], group: str) -> int:
    if group.isdigit():
        return int(group)
    for entry in entries:
        if entry.name == group:
            return entry.gid
    raise UserNotFound(f"unable to find group {group}: no matching entries in group file")
