"""Answers neighbour solicitations for addresses no interface has. RFC 4861.

ICMPv6   type 135 solicitation, 136 advertisement | code 0 | checksum 2 (the kernel's)
         flags 4 (advertisement: router, solicited, override; then reserved) | target 16
option   type 1 source's, 2 target's hardware address | length 1 (of 8 bytes) | hardware address 6

A raw socket gets the solicitations; to hear those for an address its solicited-node group is joined.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from tiphys.base.netlink import Netlink

SOLICITATION: Final = 135
ADVERTISEMENT: Final = 136
SOLICITED: Final = 0x40000000
OVERRIDE: Final = 0x20000000
ALL_NODES: Final = "ff02::1"
_ICMP6_FILTER: Final = 1
_HEADER: Final = struct.Struct("!BBHI16s")
_OPTION: Final = struct.Struct("!BB6s")


def parse(packet: bytes) -> str:
    """The address a solicitation asks for; empty when the packet is none."""
    if len(packet) < _HEADER.size:
        return ""
    kind, code, _, _, target = _HEADER.unpack_from(packet)
    return str(ipaddress.IPv6Address(target)) if (kind, code) == (SOLICITATION, 0) else ""


def build(target: str, mac: bytes, flags: int) -> bytes:
    """An advertisement that `mac` has the target."""
    address = ipaddress.IPv6Address(target).packed
    return _HEADER.pack(ADVERTISEMENT, 0, 0, flags, address) + _OPTION.pack(2, 1, mac)


def solicited_group(address: str) -> str:
    """The multicast group in which an address is asked for (RFC 4291, 2.7.1)."""
    base = int(ipaddress.IPv6Address("ff02::1:ff00:0"))
    return str(ipaddress.IPv6Address(base | int(ipaddress.IPv6Address(address)) & 0xFFFFFF))


class NdpResponder:
    """Answers on one interface of the calling thread's network namespace, in the running event loop.

    Raises OSError when the interface is not there or the kernel has no IPv6.
    """

    def __init__(self, interface: str) -> None:
        self._index = socket.if_nametoindex(interface)
        self._mac = _hardware_address(interface)
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        try:
            wanted = bytearray(b"\xff" * 32)  # a bit set means: not that type
            words = list(struct.unpack("=8I", wanted))
            words[SOLICITATION >> 5] &= ~(1 << (SOLICITATION & 31))
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
            for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
                self._socket.setsockopt(socket.IPPROTO_IPV6, option, 255)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        except OSError:
            self._socket.close()
            raise
        self._addresses: frozenset[str] = frozenset()
        self._groups: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._receive)

    def close(self) -> None:
        """Answer no more."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def answer_for(self, addresses: Iterable[str]) -> None:
        """From now on answer for these, and tell everyone about those that are new."""
        before, self._addresses = self._addresses, frozenset(addresses)
        groups = {solicited_group(each) for each in self._addresses}
        for group in groups - self._groups:
            self._member(socket.IPV6_JOIN_GROUP, group)
        for group in self._groups - groups:
            self._member(socket.IPV6_LEAVE_GROUP, group)
        self._groups = groups
        for address in sorted(self._addresses - before):
            self._send(build(address, self._mac, OVERRIDE), ALL_NODES)

    def _member(self, option: int, group: str) -> None:
        value = ipaddress.IPv6Address(group).packed + struct.pack("=I", self._index)
        with suppress(OSError):  # one that is joined already
            self._socket.setsockopt(socket.IPPROTO_IPV6, option, value)

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while True:
                packet, (host, _, _, index) = self._socket.recvfrom(2048)
                target = parse(packet)
                if index not in (0, self._index) or target not in self._addresses:
                    continue
                # Who asks whether anybody has the address has none yet: everyone is told.
                if ipaddress.IPv6Address(host.partition("%")[0]).is_unspecified:
                    self._send(build(target, self._mac, OVERRIDE), ALL_NODES)
                else:
                    self._send(build(target, self._mac, SOLICITED | OVERRIDE), host.partition("%")[0])

    def _send(self, packet: bytes, to: str) -> None:
        # One that is lost is asked for again.
        with suppress(OSError):
            self._socket.sendto(packet, (to, 0, 0, self._index))


def _hardware_address(interface: str) -> bytes:
    with Netlink() as here:
        link = here.link(interface)
    if link is None:
        raise OSError(f"there is no interface {interface}")
    return bytes.fromhex(link.mac.replace(":", ""))
