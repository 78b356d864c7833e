"""ipip: pods' packets inside packets between nodes (RFC 2003), for IPv4 and kernels that have the module.

One device `tph-ipip` without a remote end; the route to a node's pods says which node is the outer
destination, so nothing else has to be kept. 20 bytes of header, where VXLAN has 50; and unlike with
host-gw the nodes need not be on one link.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tiphys.base import netlink
from tiphys.base.netlink import Netlink, NetlinkError
from tiphys.network.backends.model import Local, Peer, Prepared, announcement
from tiphys.network.backends.routes import PROTOCOL, replace, underlay

DEVICE: Final = "tph-ipip"
OVERHEAD: Final = 20  # bytes: the outer IPv4 header


class IpipBackend:
    """See the module. Raises OSError for IPv6."""

    def __init__(self, version: int = 4, directory: Path | None = None) -> None:
        self._version = version
        self._netlink = Netlink()
        self._index = 0
        self._routes: dict[str, str] = {}  # pod CIDR → node IP

    def prepare(self, local: Local) -> Prepared:
        """As `Backend.prepare`."""
        if self._version != 4:
            raise OSError(errno.EOPNOTSUPP, "network ipip is for IPv4 only; use vxlan, host-gw or bgp")
        link = underlay(self._netlink, local.ip)
        mtu = link.mtu - OVERHEAD
        device = self._netlink.link(DEVICE)
        if device is not None and (device.kind != "ipip" or device.mac != _as_mac(local.ip)):
            self._netlink.send([netlink.del_link(device.index)])
            device = None
        if device is None:
            try:
                self._netlink.send([netlink.new_ipip(DEVICE, local=local.ip, link=link.index, mtu=mtu)])
            except NetlinkError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                words = "this kernel has no IP-in-IP (module ipip, CONFIG_NET_IPIP); use vxlan, host-gw or bgp"
                raise OSError(errno.EOPNOTSUPP, words) from None
            device = self._netlink.link(DEVICE)
            if device is None:
                raise OSError(f"{DEVICE} could not be made")
        self._index = device.index
        self._netlink.send([netlink.set_link(device.index, up=True, mtu=mtu)])
        self._routes = {r.destination: r.gateway for r in self._netlink.routes() if r.index == device.index}
        return Prepared(mtu=mtu, annotations=announcement(4, "ipip", "null", local.ip))

    def sync(self, peers: Sequence[Peer]) -> list[str]:
        """As `Backend.sync`."""
        index = self._index
        return replace(
            self._netlink,
            self._routes,
            {peer.cidr: peer.ip for peer in peers},
            lambda cidr, ip: netlink.new_route(cidr, gateway=ip, index=index, onlink=True, protocol=PROTOCOL),
            lambda cidr, ip: netlink.del_route(cidr, gateway=ip, index=index),
        )

    def close(self) -> None:
        self._netlink.close()

    def clean_up(self) -> None:
        """Remove the device; its routes go with it."""
        if self._version == 4:
            self._netlink.send([netlink.del_link(name=DEVICE)])


def _as_mac(ip: str) -> str:
    """How the kernel lists the local end of a tunnel: as a link's address."""
    return ":".join(f"{int(each):02x}" for each in ip.split("."))
