"""IPVS by generic netlink: virtual servers and the real servers behind them, as the kernel keeps them.

`Ipvs` is a socket in the calling thread's network namespace; values go in and out, messages are made and read
by pure functions. Only masquerading (NAT) is used: the other ways cannot change a port.
http://www.linuxvirtualserver.org/Documents.html, ipvsadm(8), and the kernel's include/uapi/linux/ip_vs.h
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tiphys.base.netlink import Message, Netlink, NetlinkError, attribute, attributes, nested, number

NETLINK_GENERIC: Final = 16
MISSING: Final = (
    "this kernel has no IPVS (module ip_vs, CONFIG_IP_VS), which proxy mode ipvs needs; use nftables or iptables"
)
PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
BATCH: Final = 200  # messages in a system call: their acknowledgements have to fit into the socket's buffer

# genetlink's controller
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 0x10, 3, 1, 2
# ip_vs.h: commands
_NEW_SERVICE, _SET_SERVICE, _DEL_SERVICE, _GET_SERVICE = 1, 2, 3, 4
_NEW_DEST, _SET_DEST, _DEL_DEST, _GET_DEST, _SET_CONFIG = 5, 6, 7, 8, 12
_SERVICE, _DEST, _TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP = 1, 2, 4, 5, 6
# of a service, of a destination
_AF, _PROTOCOL, _ADDRESS, _PORT, _MARK, _SCHEDULER, _FLAGS, _TIMEOUT, _NETMASK = 1, 2, 3, 4, 5, 6, 7, 8, 9
_DEST_ADDRESS, _DEST_PORT, _METHOD, _WEIGHT, _UPPER, _LOWER, _ACTIVE, _INACTIVE, _DEST_AF = 1, 2, 3, 4, 5, 6, 7, 8, 11
_PERSISTENT, _MASQUERADE = 1, 0
_HEADER: Final = 4  # bytes of the generic header before the attributes
_ALREADY, _GONE, _NO_SERVICE = 17, 2, 3  # EEXIST, ENOENT, ESRCH


class Server(NamedTuple):
    """Where a virtual server listens: an address and port, or, with `mark`, whatever packets carry that mark."""

    protocol: str = ""  # tcp, udp, sctp
    address: str = ""
    port: int = 0
    mark: int = 0

    def __str__(self) -> str:
        return f"mark {self.mark:#x}" if self.mark else f"{self.address} {self.port}/{self.protocol}"


class Place(NamedTuple):
    """A real server: address and port."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Manner:
    """How a virtual server chooses: its scheduler, and for how many seconds a client stays (0: it does not)."""

    scheduler: str
    persistence: int = 0


@dataclass(frozen=True, slots=True)
class Real:
    """A real server as the kernel has it."""

    weight: int
    connections: int = 0  # active and inactive ones


class Change(NamedTuple):
    """One message to make: what is to be done to which virtual server, or real server of it."""

    what: str  # new, set, del
    server: Server
    manner: Manner | None = None  # of a virtual server that is new or set
    place: Place | None = None
    weight: int = 1


class Ipvs:
    """The virtual servers of one address family. Blocking. Raises OSError with MISSING where the kernel has none."""

    def __init__(self, version: int = 4) -> None:
        self._version = version
        self._netlink = Netlink(protocol=NETLINK_GENERIC)
        try:
            self._kind = _family(self._netlink)
        except NetlinkError as error:
            self._netlink.close()
            raise OSError(error.errno, MISSING) from None

    def close(self) -> None:
        self._netlink.close()

    def servers(self) -> dict[Server, Manner]:
        """Every virtual server of the family."""
        found = [_read_server(each) for each in self._netlink.dump(self._kind, _command(_GET_SERVICE))]
        return {server: manner for version, server, manner in found if version == self._version}

    def reals(self, server: Server) -> dict[Place, Real]:
        """The real servers behind a virtual one."""
        body = _command(_GET_DEST) + nested(_SERVICE, _server(server, self._version))
        return dict(_read_real(each, self._version) for each in self._netlink.dump(self._kind, body))

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes, in order. What is there already, or gone already, is no failure. Raises NetlinkError."""
        messages = [_message(each, self._kind, self._version) for each in changes]
        for at in range(0, len(messages), BATCH):
            self._netlink.send(messages[at : at + BATCH])

    def set_timeouts(self, *, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        """How long connections are remembered, in seconds; 0 leaves the kernel's value."""
        wanted = ((_TIMEOUT_TCP, tcp), (_TIMEOUT_TCP_FIN, tcp_fin), (_TIMEOUT_UDP, udp))
        if body := b"".join(number(kind, value) for kind, value in wanted if value):
            self._netlink.send([Message(self._kind, 0, _command(_SET_CONFIG) + body, "set IPVS timeouts")])


def is_available() -> bool:
    """Whether the kernel has IPVS; asking makes it load the module, where there is one."""
    try:
        Ipvs().close()
    except OSError:
        return False
    return True


# --- messages -----------------------------------------------------------------------------------


def _family(channel: Netlink) -> int:
    """The number generic netlink has for IPVS."""
    body = struct.pack("=BBH", _GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, b"IPVS\0")
    answer = dict(attributes(channel.ask(Message(_CONTROLLER, 0, body, "find IPVS")), 4))
    return int(struct.unpack("=H", answer[_FAMILY_ID])[0])


def _command(command: int) -> bytes:
    return struct.pack("=BBH", command, 1, 0)


def _short(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def _port(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">H", value))


def _address(kind: int, text: str) -> bytes:
    return attribute(kind, ipaddress.ip_address(text).packed.ljust(16, b"\0"))


def _server(server: Server, version: int) -> bytes:
    """What names a virtual server."""
    head = _short(_AF, FAMILIES[version])
    if server.mark:
        return head + number(_MARK, server.mark)
    head += _short(_PROTOCOL, PROTOCOLS[server.protocol])
    return head + _address(_ADDRESS, server.address) + _port(_PORT, server.port)


def _manner(manner: Manner, version: int) -> bytes:
    flags = _PERSISTENT if manner.persistence else 0
    body = attribute(_SCHEDULER, manner.scheduler.encode() + b"\0")
    body += attribute(_FLAGS, struct.pack("=II", flags, 0xFFFFFFFF)) + number(_TIMEOUT, manner.persistence)
    # Each client by itself: the whole address counts.
    return body + (attribute(_NETMASK, b"\xff" * 4) if version == 4 else number(_NETMASK, 128))


def _real(place: Place, weight: int | None, version: int) -> bytes:
    body = _address(_DEST_ADDRESS, place.ip) + _port(_DEST_PORT, place.port) + _short(_DEST_AF, FAMILIES[version])
    if weight is None:
        return body
    return body + number(_METHOD, _MASQUERADE) + number(_WEIGHT, weight) + number(_UPPER, 0) + number(_LOWER, 0)


def _message(change: Change, kind: int, version: int) -> Message:
    server, place = change.server, change.place
    named = f"{change.what} virtual server {server}"
    if place is None:
        command = {"new": _NEW_SERVICE, "set": _SET_SERVICE, "del": _DEL_SERVICE}[change.what]
        body = _server(server, version) + (_manner(change.manner, version) if change.manner else b"")
        body = _command(command) + nested(_SERVICE, body)
    else:
        command = {"new": _NEW_DEST, "set": _SET_DEST, "del": _DEL_DEST}[change.what]
        real = _real(place, None if change.what == "del" else change.weight, version)
        body = _command(command) + nested(_SERVICE, _server(server, version)) + nested(_DEST, real)
        named = f"{change.what} real server {place.ip} {place.port} of {server}"
    tolerated = {"new": (_ALREADY,), "set": (), "del": (_GONE, _NO_SERVICE)}[change.what]
    return Message(kind, 0, body, named, tolerated)


def _read_server(payload: bytes) -> tuple[int, Server, Manner]:
    values = dict(attributes(dict(attributes(payload, _HEADER))[_SERVICE], 0))
    version = 6 if struct.unpack("=H", values[_AF])[0] == socket.AF_INET6 else 4
    flags = struct.unpack_from("=I", values[_FLAGS])[0]
    timeout = int(struct.unpack("=I", values[_TIMEOUT])[0])
    manner = Manner(values[_SCHEDULER].rstrip(b"\0").decode(), timeout if flags & _PERSISTENT else 0)
    if _MARK in values and struct.unpack("=I", values[_MARK])[0]:
        return version, Server(mark=int(struct.unpack("=I", values[_MARK])[0])), manner
    protocol = struct.unpack("=H", values[_PROTOCOL])[0]
    name = next((name for name, each in PROTOCOLS.items() if each == protocol), str(protocol))
    return version, Server(name, _text(values[_ADDRESS], version), _be(values[_PORT])), manner


def _read_real(payload: bytes, version: int) -> tuple[Place, Real]:
    values: Mapping[int, bytes] = dict(attributes(dict(attributes(payload, _HEADER))[_DEST], 0))
    weight, active, inactive = (int(struct.unpack("=I", values[each])[0]) for each in (_WEIGHT, _ACTIVE, _INACTIVE))
    return Place(_text(values[_DEST_ADDRESS], version), _be(values[_DEST_PORT])), Real(weight, active + inactive)


def _text(packed: bytes, version: int) -> str:
    return str(ipaddress.ip_address(packed[: 4 if version == 4 else 16]))


def _be(packed: bytes) -> int:
    return int(struct.unpack(">H", packed)[0])
