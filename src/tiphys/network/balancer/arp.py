"""Answers ARP requests for addresses no interface has. RFC 826, RFC 5227.

ethernet  to 6 | from 6 | 0x0806
ARP       hardware 1 | protocol 0x0800 | 6 | 4 | operation 1 request, 2 reply
          sender hardware 6 | sender IP 4 | target hardware 6 | target IP 4
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

ETH_P_ARP: Final = 0x0806
REQUEST: Final = 1
REPLY: Final = 2
BROADCAST: Final = b"\xff" * 6
_FRAME: Final = struct.Struct("!6s6sHHHBBH6s4s6s4s")


class Arp(NamedTuple):
    """One ARP message over Ethernet."""

    operation: int
    sender_mac: bytes
    sender_ip: str
    target_ip: str


def parse(frame: bytes) -> Arp | None:
    """The message in a frame; None when it is no ARP of IPv4 over Ethernet."""
    if len(frame) < _FRAME.size:
        return None
    _, _, kind, hardware, protocol, hlen, plen, operation, mac, ip, _, target = _FRAME.unpack_from(frame)
    if (kind, hardware, protocol, hlen, plen) != (ETH_P_ARP, 1, 0x0800, 6, 4):
        return None
    return Arp(operation, mac, socket.inet_ntoa(ip), socket.inet_ntoa(target))


def build(to: bytes, operation: int, mac: bytes, ip: str, target_mac: bytes, target_ip: str) -> bytes:
    """A frame from `mac`, saying that it has `ip`."""
    own, other = socket.inet_aton(ip), socket.inet_aton(target_ip)
    return _FRAME.pack(to, mac, ETH_P_ARP, 1, 0x0800, 6, 4, operation, mac, own, target_mac, other)


class ArpResponder:
    """Answers on one interface of the calling thread's network namespace, in the running event loop.

    Raises OSError when the interface is not there.
    """

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ARP))
        try:
            self._socket.bind((interface, ETH_P_ARP))
        except OSError:
            self._socket.close()
            raise
        self._mac: bytes = self._socket.getsockname()[4]
        self._addresses: frozenset[str] = frozenset()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._receive)

    def close(self) -> None:
        """Answer no more."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def answer_for(self, addresses: Iterable[str]) -> None:
        """From now on answer for these, and tell everyone about those that are new."""
        before, self._addresses = self._addresses, frozenset(addresses)
        for address in sorted(self._addresses - before):
            # Both forms: some listen to requests only, some to replies.
            for operation in (REQUEST, REPLY):
                self._send(build(BROADCAST, operation, self._mac, address, BROADCAST, address))

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while True:
                frame, source = self._socket.recvfrom(2048)
                message = parse(frame) if source[2] != socket.PACKET_OUTGOING else None
                if message is not None and message.operation == REQUEST and message.target_ip in self._addresses:
                    to = message.sender_mac
                    self._send(build(to, REPLY, self._mac, message.target_ip, to, message.sender_ip))

    def _send(self, frame: bytes) -> None:
        # One that is lost is asked for again.
        with suppress(OSError):
            self._socket.send(frame)
