"""Linux capabilities of a container: capabilities(7), in the order of their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NAMES: Final = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)

# What containers get when nothing is asked for, as Docker and containerd give.
DEFAULT: Final = frozenset(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)

SYS_RESOURCE: Final = NAMES.index("CAP_SYS_RESOURCE")


def normalise(name: str) -> str:
    """`net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are the same; raises ValueError for an unknown one."""
    full = name.upper()
    if not full.startswith("CAP_"):
        full = "CAP_" + full
    if full not in NAMES:
        raise ValueError(f'unknown capability "{full}"')
    return full


def effective(
    *, add: Iterable[str], drop: Iterable[str], privileged: bool, available: frozenset[str]
) -> tuple[list[str], list[str]]:
    """The container's capabilities in kernel order, and those asked for that this machine cannot give.

    `ALL` in add or drop means all of them; a capability both added and dropped by name is dropped, one added
    by name after `drop: ALL` stays.
    """
    added, dropped = list(add), list(drop)
    wanted = set(NAMES) if privileged or _has_all(added) else set(DEFAULT)
    if not privileged:
        if _has_all(dropped):
            wanted = set(NAMES) if _has_all(added) else set()
        wanted |= {normalise(name) for name in added if name.upper() != "ALL"}
        wanted -= {normalise(name) for name in dropped if name.upper() != "ALL"}
    given = [name for name in NAMES if name in wanted and name in available]
    return given, [name for name in NAMES if name in wanted and name not in available]


def _has_all(names: list[str]) -> bool:
    return any(name.upper() == "ALL" for name in names)
