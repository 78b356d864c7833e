"""Links, addresses, routes and neighbours by raw rtnetlink: messages are bytes, several go in one system call.

`Netlink` is a socket in one network namespace; the functions below it build messages. Used where
a pod's network must be ready in about a millisecond; a general library costs ten times as much.
rtnetlink(7), netlink(7), and the kernel's Documentation/netlink/specs.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple, Self

from tiphys.base.netns import enter

REQUEST: Final = 0x1
ACK: Final = 0x4
REPLACE: Final = 0x100
EXCL: Final = 0x200
CREATE: Final = 0x400
APPEND: Final = 0x800
DUMP: Final = 0x300

NEW_LINK, DEL_LINK, GET_LINK, SET_LINK = 16, 17, 18, 19
NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DEL_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOUR, DEL_NEIGHBOUR, GET_NEIGHBOUR = 28, 29, 30
NEW_QDISC: Final = 36

IFF_UP: Final = 1
AF_BRIDGE: Final = 7
NUD_PERMANENT: Final = 0x80
NTF_SELF: Final = 0x02
RTNH_ONLINK: Final = 4
MAIN_TABLE: Final = 254

# if_link.h
_IFNAME, _MTU, _ADDRESS, _MASTER, _LINKINFO, _NET_NS_FD, _PROTINFO, _GROUP = 3, 4, 1, 10, 18, 28, 12, 27
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_PEER: Final = 1
_VXLAN_LOCAL, _VXLAN_LOCAL6 = 4, 17
_BRPORT_HAIRPIN: Final = 4
_NESTED: Final = 0x8000


class NetlinkError(OSError):
    """The kernel refused a request; `errno` says why and `what` which request it was."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, f"{what}: {os.strerror(number)}")
        self.what = what


class Message(NamedTuple):
    """One request: its type, flags beyond REQUEST, body, words for an error, and errnos that are no failure."""

    kind: int
    flags: int
    body: bytes
    what: str
    tolerate: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel lists it."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    master: int
    up: bool


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface, in CIDR form."""

    index: int
    cidr: str


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table; `destination` is "" for the default route."""

    destination: str
    gateway: str
    index: int
    protocol: int
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour (family AF_INET…) or forwarding (AF_BRIDGE) entry."""

    index: int
    address: str
    mac: str
    permanent: bool


class Netlink:
    """A netlink socket in a network namespace (a path or open file; None: the calling thread's). Blocking.

    `protocol`: rtnetlink, which the methods about links and routes need, or another.
    """

    def __init__(self, netns: str | int | None = None, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._sequence = 0
        if netns is None:
            self._socket = _open(protocol)
            return
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(netns)
            try:
                self._socket = _open(protocol)
            finally:
                enter(home)
        finally:
            os.close(home)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, messages: Sequence[Message]) -> None:
        """Make requests in order, in one system call.

        The kernel carries out all of them also when one is refused; the first refusal is raised
        as NetlinkError.
        """
        if not messages:
            return
        first = self._sequence + 1
        parts = []
        for message in messages:
            self._sequence += 1
            parts.append(_packed(message, self._sequence, ACK))
        self._socket.send(b"".join(parts))
        refused: NetlinkError | None = None
        left = len(messages)
        while left:
            for sequence, kind, body in _messages(self._socket.recv(1 << 18)):
                if kind != 2 or not first <= sequence <= self._sequence:  # NLMSG_ERROR, which acknowledgements are too
                    continue
                left -= 1
                number = -int(struct.unpack_from("=i", body)[0])
                asked = messages[sequence - first]
                if number and number not in asked.tolerate and refused is None:
                    refused = NetlinkError(number, asked.what)
        if refused is not None:
            raise refused

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Everything the kernel lists for a dump request."""
        while True:
            self._sequence += 1
            self._socket.send(_packed(Message(kind, DUMP, body, "dump"), self._sequence, 0))
            found: list[bytes] = []
            interrupted = done = False
            while not done:
                data = self._socket.recv(1 << 18)
                for sequence, answer, payload in _messages(data):
                    if sequence != self._sequence:
                        continue
                    if answer == 3:  # NLMSG_DONE
                        done = True
                    elif answer == 2:
                        raise NetlinkError(-int(struct.unpack_from("=i", payload)[0]), "dump")
                    else:
                        found.append(payload)
                interrupted = interrupted or bool(struct.unpack_from("=H", data, 6)[0] & 0x10)
            if not interrupted:
                return found

    def ask(self, message: Message) -> bytes:
        """The one answer to a request; raises NetlinkError."""
        self._sequence += 1
        self._socket.send(_packed(message, self._sequence, 0))
        while True:
            for sequence, kind, payload in _messages(self._socket.recv(1 << 18)):
                if sequence == self._sequence:
                    if kind == 2:  # NLMSG_ERROR
                        raise NetlinkError(-int(struct.unpack_from("=i", payload)[0]), message.what)
                    return payload

    def link(self, name: str) -> Link | None:
        """One interface by name."""
        self._sequence += 1
        body = _ifinfo() + attribute(_IFNAME, name.encode() + b"\0")
        self._socket.send(_packed(Message(GET_LINK, 0, body, name), self._sequence, 0))
        while True:
            for sequence, kind, payload in _messages(self._socket.recv(1 << 18)):
                if sequence == self._sequence:
                    return _link(payload) if kind == NEW_LINK else None

    def vxlan_local(self, name: str) -> str:
        """The address a VXLAN device sends from; empty when there is no such device."""
        for payload in self.dump(GET_LINK, _ifinfo()):
            values = dict(attributes(payload, 16))
            if values.get(_IFNAME, b"").rstrip(b"\0").decode() == name:
                data = dict(attributes(dict(attributes(values.get(_LINKINFO, b""), 0)).get(_INFO_DATA, b""), 0))
                local = data.get(_VXLAN_LOCAL) or data.get(_VXLAN_LOCAL6)
                return str(ipaddress.ip_address(local)) if local else ""
        return ""

    def links(self) -> list[Link]:
        """Every interface."""
        return [_link(payload) for payload in self.dump(GET_LINK, _ifinfo())]

    def addresses(self, index: int = 0) -> list[Address]:
        """The addresses of an interface, or of all."""
        found = []
        for payload in self.dump(GET_ADDRESS, bytes(8)):
            _, length, _, _, at = struct.unpack_from("=BBBBI", payload)
            values = dict(attributes(payload, 8))
            address = values.get(2, values.get(1))  # IFA_LOCAL, else IFA_ADDRESS
            if address is not None and index in (0, at):
                found.append(Address(at, f"{ipaddress.ip_address(address)}/{length}"))
        return found

    def routes(self, family: int = socket.AF_INET) -> list[Route]:
        """The unicast routes of the main table."""
        found = []
        for payload in self.dump(GET_ROUTE, bytes([family]) + bytes(11)):
            length, table, protocol, kind = payload[1], payload[4], payload[5], payload[7]
            if table != MAIN_TABLE or kind != 1:
                continue
            values = dict(attributes(payload, 12))
            destination = f"{ipaddress.ip_address(values[1])}/{length}" if 1 in values else ""
            gateway = str(ipaddress.ip_address(values[5])) if 5 in values else ""
            index = struct.unpack("=I", values[4])[0] if 4 in values else 0
            metric = struct.unpack("=I", values[6])[0] if 6 in values else 0
            found.append(Route(destination, gateway, index, protocol, metric))
        return found

    def neighbours(self, index: int, family: int = socket.AF_INET) -> list[Neighbour]:
        """The neighbour or, with AF_BRIDGE, forwarding entries of an interface."""
        found = []
        for payload in self.dump(GET_NEIGHBOUR, bytes([family]) + bytes(11)):
            _, at, state, _, _ = struct.unpack_from("=B3xiHBB", payload)
            values = dict(attributes(payload, 12))
            if at != index or 1 not in values:
                continue
            mac = values.get(2, b"").hex(":")
            found.append(Neighbour(at, str(ipaddress.ip_address(values[1])), mac, bool(state & NUD_PERMANENT)))
        return found


# --- requests -----------------------------------------------------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """An attribute that is an unsigned 32-bit number."""
    return struct.pack("=HHI", 8, kind, value)


def nested(kind: int, *values: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(kind | _NESTED, b"".join(values))


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def new_veth(name: str, *, master: int, mtu: int, peer: str, peer_netns: int, peer_mac: str) -> Message:
    """A veth pair: `name` here, up and in bridge `master` (0: none); `peer` in an open namespace."""
    # The kernel makes the peer first and cannot bring it up before its other end exists.
    ends = _ifinfo()
    ends += attribute(_IFNAME, peer.encode() + b"\0") + number(_MTU, mtu) + number(_NET_NS_FD, peer_netns)
    ends += attribute(_ADDRESS, mac_bytes(peer_mac))
    info = nested(_LINKINFO, attribute(_INFO_KIND, b"veth"), nested(_INFO_DATA, attribute(_VETH_PEER, ends)))
    body = _ifinfo(flags=IFF_UP, change=IFF_UP) + attribute(_IFNAME, name.encode() + b"\0") + number(_MTU, mtu)
    if master:
        body += number(_MASTER, master)
    return Message(NEW_LINK, CREATE | EXCL, body + info, f"add veth {name}")


def new_bridge(name: str, *, mac: str, mtu: int) -> Message:
    """A bridge, up, with an address of its own, so that it does not change with its ports."""
    body = _ifinfo(flags=IFF_UP, change=IFF_UP) + attribute(_IFNAME, name.encode() + b"\0") + number(_MTU, mtu)
    body += attribute(_ADDRESS, mac_bytes(mac)) + nested(_LINKINFO, attribute(_INFO_KIND, b"bridge"))
    return Message(NEW_LINK, CREATE | EXCL, body, f"add bridge {name}", (17,))


def new_vxlan(name: str, *, vni: int, port: int, local: str, link: int, mac: str, mtu: int) -> Message:
    """A VXLAN device that learns nothing: its forwarding entries are all ours."""
    source = ipaddress.ip_address(local)
    data = number(1, vni) + attribute(_VXLAN_LOCAL if source.version == 4 else _VXLAN_LOCAL6, source.packed)
    data += number(3, link)
    data += attribute(15, struct.pack(">H", port)) + attribute(7, b"\0")  # IFLA_VXLAN_PORT, _LEARNING off
    body = _ifinfo(flags=IFF_UP, change=IFF_UP) + attribute(_IFNAME, name.encode() + b"\0") + number(_MTU, mtu)
    body += attribute(_ADDRESS, mac_bytes(mac))
    body += nested(_LINKINFO, attribute(_INFO_KIND, b"vxlan"), nested(_INFO_DATA, data))
    return Message(NEW_LINK, CREATE | EXCL, body, f"add vxlan {name}")


def new_ipip(name: str, *, local: str, link: int, mtu: int) -> Message:
    """An IP-in-IP device without a remote end: routes through it say where to, by their gateway."""
    data = number(1, link) + attribute(2, ipaddress.IPv4Address(local).packed)  # IFLA_IPTUN_LINK, _LOCAL
    body = _ifinfo(flags=IFF_UP, change=IFF_UP) + attribute(_IFNAME, name.encode() + b"\0") + number(_MTU, mtu)
    body += nested(_LINKINFO, attribute(_INFO_KIND, b"ipip"), nested(_INFO_DATA, data))
    return Message(NEW_LINK, CREATE | EXCL, body, f"add ipip {name}")


def new_dummy(name: str) -> Message:
    """An interface that carries addresses and no packets, up; one that is there is no failure."""
    body = _ifinfo(flags=IFF_UP, change=IFF_UP) + attribute(_IFNAME, name.encode() + b"\0")
    body += nested(_LINKINFO, attribute(_INFO_KIND, b"dummy"))
    return Message(NEW_LINK, CREATE | EXCL, body, f"add dummy {name}", (17,))


def set_link(index: int, *, up: bool | None = None, mtu: int = 0, master: int | None = None) -> Message:
    """Change an interface."""
    body = _ifinfo(index, IFF_UP if up else 0, 0 if up is None else IFF_UP)
    body += (number(_MTU, mtu) if mtu else b"") + (b"" if master is None else number(_MASTER, master))
    return Message(NEW_LINK, 0, body, f"set link {index}")


def set_hairpin(index: int) -> Message:
    """Let a bridge send a packet back through the port it came from: a pod reaches itself through a Service."""
    body = struct.pack("=BxHiII", AF_BRIDGE, 0, index, 0, 0) + nested(_PROTINFO, attribute(_BRPORT_HAIRPIN, b"\1"))
    return Message(SET_LINK, 0, body, f"set hairpin on link {index}")


def del_link(index: int = 0, name: str = "") -> Message:
    """Remove an interface; one that is gone is no failure."""
    body = _ifinfo(index) + (attribute(_IFNAME, name.encode() + b"\0") if name else b"")
    return Message(DEL_LINK, 0, body, f"delete link {name or index}", (19,))  # ENODEV


def set_group(name: str, group: int) -> Message:
    """Put an interface into a group; one that is gone is no failure."""
    body = _ifinfo() + attribute(_IFNAME, name.encode() + b"\0") + number(_GROUP, group)
    return Message(SET_LINK, 0, body, f"set group of link {name}", (19,))


def del_group(group: int) -> Message:
    """Remove every interface of a group at once: the kernel waits once for all of them; none is no failure."""
    return Message(DEL_LINK, 0, _ifinfo() + number(_GROUP, group), f"delete link group {group}", (19,))


def new_address(index: int, cidr: str, *, replace: bool = False) -> Message:
    """An address on an interface; one that is there is no failure."""
    interface = ipaddress.ip_interface(cidr)
    packed = interface.ip.packed
    flags = 0x02 if interface.version == 6 else 0  # IFA_F_NODAD: usable at once
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, interface.network.prefixlen, flags, 0, index)
    body += attribute(2, packed) + attribute(1, packed)
    return Message(NEW_ADDRESS, CREATE | (REPLACE if replace else EXCL), body, f"add address {cidr}", (17,))


def del_address(index: int, cidr: str) -> Message:
    """Take an address away; one that is gone is no failure."""
    interface = ipaddress.ip_interface(cidr)
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, interface.network.prefixlen, 0, 0, index) + attribute(2, interface.ip.packed)
    return Message(DEL_ADDRESS, 0, body, f"delete address {cidr}", (99,))


def new_route(
    destination: str, *, gateway: str = "", index: int = 0, onlink: bool = False, protocol: int = 4
) -> Message:
    """A route, replacing another to the same destination; "" is the default route.

    `onlink`: the gateway is taken to be on the link though no address says so. `protocol` marks
    whose route it is (4: static, see /etc/iproute2/rt_protos).
    """
    return Message(
        NEW_ROUTE, CREATE | REPLACE, _route(destination, gateway, index, onlink, protocol), f"add route {destination}"
    )


def del_route(destination: str, *, gateway: str = "", index: int = 0, metric: int = 0) -> Message:
    """Remove a route; one that is gone is no failure. `metric` 0: any, of IPv4 only one without."""
    body = _route(destination, gateway, index, False, 0) + (number(6, metric) if metric else b"")
    return Message(DEL_ROUTE, 0, body, f"delete route {destination}", (3,))


def new_neighbour(index: int, address: str, mac: str) -> Message:
    """A permanent neighbour entry: this address has this hardware address."""
    ip = ipaddress.ip_address(address)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    body = struct.pack("=B3xiHBB", family, index, NUD_PERMANENT, 0, 0)
    body += attribute(1, ip.packed) + attribute(2, mac_bytes(mac))
    return Message(NEW_NEIGHBOUR, CREATE | REPLACE, body, f"add neighbour {address}")


def del_neighbour(index: int, address: str) -> Message:
    """Remove a neighbour entry; one that is gone is no failure."""
    ip = ipaddress.ip_address(address)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    body = struct.pack("=B3xiHBB", family, index, 0, 0, 0) + attribute(1, ip.packed)
    return Message(DEL_NEIGHBOUR, 0, body, f"delete neighbour {address}", (2,))


def new_forwarding(index: int, mac: str, destination: str) -> Message:
    """A forwarding entry of a VXLAN device: frames for this hardware address go to this machine."""
    body = struct.pack("=B3xiHBB", AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, 0)
    body += attribute(2, mac_bytes(mac)) + attribute(1, ipaddress.ip_address(destination).packed)
    return Message(NEW_NEIGHBOUR, CREATE | REPLACE, body, f"add forwarding entry {mac}")


def del_forwarding(index: int, mac: str, destination: str) -> Message:
    """Remove a forwarding entry; one that is gone is no failure."""
    body = struct.pack("=B3xiHBB", AF_BRIDGE, index, 0, NTF_SELF, 0)
    body += attribute(2, mac_bytes(mac)) + attribute(1, ipaddress.ip_address(destination).packed)
    return Message(DEL_NEIGHBOUR, 0, body, f"delete forwarding entry {mac}", (2,))


# --- bytes --------------------------------------------------------------------------------------


def attributes(body: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message's body behind its fixed part of `start` bytes."""
    at = start
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            return
        yield kind & 0x3FFF, body[at + 4 : at + length]
        at += (length + 3) & ~3


def _open(protocol: int) -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    channel.settimeout(10)
    return channel


def _packed(message: Message, sequence: int, flags: int) -> bytes:
    header = struct.pack("=IHHII", 16 + len(message.body), message.kind, REQUEST | flags | message.flags, sequence, 0)
    return header + message.body + bytes(-len(message.body) % 4)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, at)
        yield sequence, kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


def _link(payload: bytes) -> Link:
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", payload)
    values = dict(attributes(payload, 16))
    info = dict(attributes(values.get(_LINKINFO, b""), 0))
    return Link(
        index=index,
        name=values.get(_IFNAME, b"").rstrip(b"\0").decode(),
        kind=info.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        mac=values.get(_ADDRESS, b"").hex(":"),
        mtu=int(struct.unpack("=I", values[_MTU])[0]) if _MTU in values else 0,
        master=int(struct.unpack("=I", values[_MASTER])[0]) if _MASTER in values else 0,
        up=bool(flags & IFF_UP),
    )


def _route(destination: str, gateway: str, index: int, onlink: bool, protocol: int) -> bytes:
    network = ipaddress.ip_network(destination) if destination else None
    version = network.version if network is not None else ipaddress.ip_address(gateway or "0.0.0.0").version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    length = network.prefixlen if network is not None else 0
    scope = 0 if gateway else 253  # RT_SCOPE_UNIVERSE, RT_SCOPE_LINK
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, MAIN_TABLE, protocol, scope, 1, RTNH_ONLINK if onlink else 0)
    if network is not None:
        body += attribute(1, network.network_address.packed)
    if gateway:
        body += attribute(5, ipaddress.ip_address(gateway).packed)
    return body + (number(4, index) if index else b"")
