"""VXLAN between nodes as Flannel makes it, so that nodes of both can join one network.

Every node has a device `tph.1` (for IPv6 `tph-v6.1`; VNI 1, UDP 8472) with a fixed hardware address that it announces
on its Node object, and the first address of its pod CIDR. For each other node it keeps

    route       10.244.2.0/24 via 10.244.2.0 dev tph.1 onlink    packets for its pods go to its VTEP
    neighbour   10.244.2.0 lladdr <its VTEP's MAC> permanent      nobody asks by ARP
    forwarding  <its VTEP's MAC> dst <its node IP> self           over the real network

and nothing is learnt from packets. The outer packets are nobody's connections and go past connection tracking, which
costs a message of one byte a tenth of its time. https://github.com/flannel-io/flannel/blob/master/Documentation/backends.md
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from tiphys.base import netlink
from tiphys.base.log import get_logger
from tiphys.base.netlink import AF_BRIDGE, Netlink
from tiphys.base.nft import Nft, NftError
from tiphys.network.backends.model import Local, Peer, Prepared, announcement
from tiphys.network.backends.routes import FAMILIES, PROTOCOL, replace, underlay

log = get_logger(__name__)

# By IP version, of the nodes' addresses and the pods' alike.
DEVICES: Final = {4: "tph.1", 6: "tph-v6.1"}
VNI: Final = 1
PORT: Final = 8472
OVERHEAD: Final = {4: 50, 6: 70}  # bytes: outer IP, UDP, VXLAN and inner Ethernet headers
TABLE: Final = "tiphys-vxlan"
NAME: Final = f"inet {TABLE}"
# Packets between nodes are not connections worth tracking: those within them are.
UNTRACKED: Final = f"""\
add table {NAME}
delete table {NAME}
table {NAME} {{
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    udp dport {PORT} fib daddr type local notrack
  }}
  chain output {{
    type filter hook output priority raw; policy accept;
    udp dport {PORT} notrack
  }}
}}
"""


def vtep_mac(node: str) -> str:
    """The hardware address of a node's VTEP: made of its name, so that it survives the device."""
    return "0a:" + hashlib.sha256(node.encode()).digest()[:5].hex(":")


def mac_in(annotation: str) -> str:
    """The hardware address in another node's announcement; empty when there is none or it is damaged."""
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(annotation)["VtepMAC"]).lower()
    return ""


def vtep_ip(cidr: str) -> str:
    """The address of the VTEP of the node with this pod CIDR."""
    return str(ipaddress.ip_network(cidr).network_address)


class VxlanBackend:
    """See the module."""

    def __init__(self, version: int = 4, directory: Path | None = None) -> None:
        self._version = version
        self._device = DEVICES[version]
        self._netlink = Netlink()
        self._index = 0
        self._routes: dict[str, str] = {}  # pod CIDR → VTEP's IP
        self._neighbours: dict[str, str] = {}  # VTEP's IP → MAC
        self._forwarding: dict[str, str] = {}  # MAC → node IP

    def prepare(self, local: Local) -> Prepared:
        """As `Backend.prepare`. A device that does not fit is made anew."""
        link = underlay(self._netlink, local.ip)
        mac, mtu = vtep_mac(local.name), link.mtu - OVERHEAD[self._version]
        device = self._netlink.link(self._device)
        if device is not None and (device.kind != "vxlan" or device.mac != mac or not self._fits(local.ip)):
            self._netlink.send([netlink.del_link(device.index)])
            device = None
        if device is None:
            self._netlink.send(
                [netlink.new_vxlan(self._device, vni=VNI, port=PORT, local=local.ip, link=link.index, mac=mac, mtu=mtu)]
            )
            device = self._netlink.link(self._device)
            if device is None:
                raise OSError(f"{self._device} could not be made")
        self._index = device.index
        own = f"{vtep_ip(local.cidr)}/{32 if self._version == 4 else 128}"
        stale = [each.cidr for each in self._netlink.addresses(device.index) if each.cidr not in (own,)]
        self._netlink.send(
            [
                netlink.set_link(device.index, up=True, mtu=mtu),
                *(netlink.del_address(device.index, cidr) for cidr in stale if not cidr.startswith("fe80:")),
                netlink.new_address(device.index, own),
            ]
        )
        self._read()
        _run(UNTRACKED)
        data = json.dumps({"VNI": VNI, "VtepMAC": mac}, separators=(",", ":"))
        return Prepared(mtu=mtu, annotations=announcement(self._version, "vxlan", data, local.ip))

    def sync(self, peers: Sequence[Peer]) -> list[str]:
        """As `Backend.sync`. Nodes that have announced no hardware address are left out."""
        known = [peer for peer in peers if peer.mac]
        index = self._index
        neighbours = {vtep_ip(peer.cidr): peer.mac for peer in known}
        forwarding = {peer.mac: peer.ip for peer in known}
        routes = {peer.cidr: vtep_ip(peer.cidr) for peer in known}
        # The way has to exist before packets are sent on it: routes last, and first when they go.
        gone = {cidr: gateway for cidr, gateway in self._routes.items() if cidr in routes}
        failures = self._replace_routes(gone)
        failures += replace(
            self._netlink,
            self._neighbours,
            neighbours,
            lambda ip, mac: netlink.new_neighbour(index, ip, mac),
            lambda ip, _: netlink.del_neighbour(index, ip),
        )
        failures += replace(
            self._netlink,
            self._forwarding,
            forwarding,
            lambda mac, ip: netlink.new_forwarding(index, mac, ip),
            lambda mac, ip: netlink.del_forwarding(index, mac, ip),
        )
        return failures + self._replace_routes(routes)

    def close(self) -> None:
        self._netlink.close()

    def clean_up(self) -> None:
        """Remove the device; its routes and entries go with it."""
        self._netlink.send([netlink.del_link(name=self._device)])
        _run(f"add table {NAME}\ndelete table {NAME}\n")

    def _replace_routes(self, want: dict[str, str]) -> list[str]:
        index = self._index
        return replace(
            self._netlink,
            self._routes,
            want,
            lambda cidr, ip: netlink.new_route(cidr, gateway=ip, index=index, onlink=True, protocol=PROTOCOL),
            lambda cidr, ip: netlink.del_route(cidr, gateway=ip, index=index),
        )

    def _fits(self, ip: str) -> bool:
        """Whether the device there sends from this address."""
        return self._netlink.vxlan_local(self._device) == ip

    def _read(self) -> None:
        """Take over what an earlier run left, so that only differences are written."""
        index, family = self._index, FAMILIES[self._version]
        routes = self._netlink.routes(family)
        self._routes = {r.destination: r.gateway for r in routes if r.index == index and r.gateway}
        self._neighbours = {n.address: n.mac for n in self._netlink.neighbours(index, family) if n.permanent}
        entries = self._netlink.neighbours(index, AF_BRIDGE)
        self._forwarding = {n.mac: n.address for n in entries}


def _run(script: str) -> None:
    """What is merely faster may fail."""
    try:
        with closing(Nft()) as nft:
            nft.run(script)
    except NftError as error:
        log.warning("connection tracking of VXLAN packets stays as it is: %s", error)
