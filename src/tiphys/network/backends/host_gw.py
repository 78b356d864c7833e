"""host-gw: a plain route to each node's pod CIDR through its node address, for nodes on one link.

No headers are added, so pods have the full MTU; a node that is not on this node's link cannot be
reached this way and is reported. https://github.com/flannel-io/flannel/blob/master/Documentation/backends.md#host-gw
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiphys.base import netlink
from tiphys.base.netlink import Netlink
from tiphys.network.backends.ipip import DEVICE as IPIP_DEVICE
from tiphys.network.backends.model import Local, Peer, Prepared, announcement
from tiphys.network.backends.routes import FAMILIES, PROTOCOL, replace, underlay
from tiphys.network.backends.vxlan import DEVICES


class HostGatewayBackend:
    """See the module."""

    def __init__(self, version: int = 4, directory: Path | None = None) -> None:
        self._version = version
        self._netlink = Netlink()
        self._index = 0
        self._routes: dict[str, str] = {}  # pod CIDR → node IP

    def prepare(self, local: Local) -> Prepared:
        """As `Backend.prepare`."""
        link = underlay(self._netlink, local.ip)
        self._index = link.index
        self._routes = {
            route.destination: route.gateway
            for route in self._netlink.routes(FAMILIES[self._version])
            if route.protocol == PROTOCOL and route.index == link.index
        }
        return Prepared(mtu=link.mtu, annotations=announcement(self._version, "host-gw", "null", local.ip))

    def sync(self, peers: Sequence[Peer]) -> list[str]:
        """As `Backend.sync`."""
        index = self._index
        return replace(
            self._netlink,
            self._routes,
            {peer.cidr: peer.ip for peer in peers},
            lambda cidr, ip: netlink.new_route(cidr, gateway=ip, index=index, protocol=PROTOCOL),
            lambda cidr, ip: netlink.del_route(cidr, gateway=ip, index=index),
        )

    def close(self) -> None:
        self._netlink.close()

    def clean_up(self) -> None:
        """Remove our routes; those through a tunnel are another back end's."""
        links = [self._netlink.link(name) for name in (DEVICES[self._version], IPIP_DEVICE)]
        tunnels = {link.index for link in links if link is not None}
        self._netlink.send(
            [
                netlink.del_route(route.destination, gateway=route.gateway, index=route.index)
                for route in self._netlink.routes(FAMILIES[self._version])
                if route.protocol == PROTOCOL and route.gateway and route.index not in tunnels
            ]
        )
