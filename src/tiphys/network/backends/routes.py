"""What all back ends share: this node's own interface, and keeping a table of kernel entries."""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final, TypeVar

from tiphys.base.netlink import Link, Message, Netlink, NetlinkError

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
# Marks our routes in the kernel (`ip route` shows "proto 84"); any number of rt_protos' free range.
PROTOCOL: Final = 84

K = TypeVar("K", bound=Hashable)


def underlay(channel: Netlink, ip: str) -> Link:
    """The interface that has the node's address. Raises OSError when none has."""
    for address in channel.addresses():
        if address.cidr.split("/")[0] == ip:
            return next(link for link in channel.links() if link.index == address.index)
    raise OSError(f"no interface of this node has its InternalIP {ip}")


def replace(
    channel: Netlink,
    have: dict[K, str],
    want: Mapping[K, str],
    add: Callable[[K, str], Message],
    delete: Callable[[K, str], Message],
) -> list[str]:
    """Make `have` (kept up to date, key → value) equal to `want` in the kernel; returns failures in words.

    Additions replace an entry of the same key, so only keys that are gone are deleted.
    """
    failures: list[str] = []
    for key in [key for key in have if key not in want]:
        failures.extend(_tried(channel, [delete(key, have[key])]))
        del have[key]
    changed = {key: value for key, value in want.items() if have.get(key) != value}
    if not changed:
        return failures
    # All at once; one by one only to learn which of them is refused.
    if not _tried(channel, [add(key, value) for key, value in changed.items()]):
        have.update(changed)
        return failures
    for key, value in changed.items():
        refused = _tried(channel, [add(key, value)])
        failures.extend(refused)
        if not refused:
            have[key] = value
    return failures


def _tried(channel: Netlink, messages: Iterable[Message]) -> list[str]:
    try:
        channel.send(list(messages))
    except NetlinkError as error:
        return [error.strerror or str(error)]
    return []
