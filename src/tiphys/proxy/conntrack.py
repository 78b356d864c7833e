"""Forgets UDP connections that conntrack still sends to endpoints that are gone.

A UDP client that goes on sending keeps its entry alive, and with it the old translation: after an
endpoint left (or the first arrived) such entries must go. TCP ends by itself. Entries are read by
ctnetlink in one dump and judged by a pure function. Blocking; runs in the caller's namespace.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tiphys.base.netlink import attributes
from tiphys.base.nft import NETLINK_NETFILTER

UDP: Final = 17
ANY: Final = {4: "0.0.0.0", 6: "::"}  # by IP version
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_{GET,DELETE}
_TUPLE_ORIG, _TUPLE_REPLY = 1, 2

# What the entries of one front may lead to: (address or, of node ports, ANY of its family, port) → backends.
Fronts = Mapping[tuple[str, int], frozenset[tuple[str, int]]]


class Entry(NamedTuple):
    """A tracked UDP connection: where the client sent to, and who answers."""

    destination: tuple[str, int]
    backend: tuple[str, int]
    original: bytes  # the raw tuple, by which it is deleted


def is_stale(entry: Entry, fronts: Fronts, node_ports: Fronts) -> bool:
    """Whether a front of ours was translated to something it must not lead to any more, or not at all.

    Node ports are judged only where a translation happened: the node's own traffic uses the same
    port numbers.
    """
    allowed = fronts.get(entry.destination)
    if allowed is not None:
        return entry.backend not in allowed and not (entry.backend == entry.destination and not allowed)
    allowed = node_ports.get((ANY[6 if ":" in entry.destination[0] else 4], entry.destination[1]))
    return allowed is not None and entry.backend != entry.destination and entry.backend not in allowed


def clean_up(fronts: Fronts, node_ports: Fronts, families: Sequence[int] = (socket.AF_INET,)) -> int:
    """Delete every stale entry of the namespace in these families; returns how many."""
    removed = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as channel:
        channel.settimeout(5.0)
        for family in families:
            stale = [entry for entry in _dump(channel, family) if is_stale(entry, fronts, node_ports)]
            for number, entry in enumerate(stale, start=2):
                _send(channel, _DELETE, 0x1 | 0x4, number, family, entry.original)
                channel.recv(65536)  # acknowledgement; an entry that ended meanwhile is refused, which is as good
            removed += len(stale)
    return removed


def _send(channel: socket.socket, kind: int, flags: int, sequence: int, family: int, body: bytes) -> None:
    length = 20 + len(body)
    channel.send(struct.pack("=IHHIIBBH", length, kind, flags, sequence, 0, family, 0, 0) + body)


def _dump(channel: socket.socket, family: int) -> Iterator[Entry]:
    _send(channel, _GET, 0x1 | 0x300, 1, family, b"")
    while True:
        data = channel.recv(1 << 18)
        at = 0
        while at + 16 <= len(data):
            length, kind, _, _, _ = struct.unpack_from("=IHHII", data, at)
            if kind == 3:
                return
            if kind == 2:
                raise OSError(-struct.unpack_from("=i", data, at + 16)[0], "conntrack dump refused")
            entry = _entry(data[at + 20 : at + length])
            if entry is not None:
                yield entry
            at += (length + 3) & ~3


def _entry(body: bytes) -> Entry | None:
    values = dict(attributes(body, 0))
    original, reply = values.get(_TUPLE_ORIG), values.get(_TUPLE_REPLY)
    if original is None or reply is None:
        return None
    sent, answered = _tuple(original), _tuple(reply)
    if sent is None or answered is None:
        return None
    raw = struct.pack("=HH", len(original) + 4, _TUPLE_ORIG | 0x8000) + original
    return Entry(destination=sent[1], backend=answered[0], original=raw)


def _tuple(body: bytes) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """Source and destination of a UDP tuple; None for another protocol."""
    values = dict(attributes(body, 0))
    addresses, protocol = dict(attributes(values.get(1, b""), 0)), dict(attributes(values.get(2, b""), 0))
    if protocol.get(1, b"\0")[0] != UDP or 2 not in protocol or 3 not in protocol:
        return None
    source, destination = addresses.get(1) or addresses.get(3), addresses.get(2) or addresses.get(4)
    if source is None or destination is None:
        return None
    ports = [int(struct.unpack(">H", protocol[each])[0]) for each in (2, 3)]
    return (str(ipaddress.ip_address(source)), ports[0]), (str(ipaddress.ip_address(destination)), ports[1])
