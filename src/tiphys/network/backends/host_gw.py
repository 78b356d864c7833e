"""host-gw: a plain route to each node's pod CIDR through its node address, for nodes on one link.

No headers are added, so pods have the full MTU; a node that is not on this node's link cannot be
reached this way and is reported. https://github.com/flannel-io/flannel/blob/master/Documentation/backends.md#host-gw
"""

from __future__ import annotations

from collections.abc import Sequence

from tiphys.base import netlink
from tiphys.base.netlink import Netlink
from tiphys.network.backends.model import Local, Peer, Prepared
from tiphys.network.backends.routes import PROTOCOL, replace, underlay
from tiphys.network.backends.vxlan import ADDRESS_ANNOTATION, DATA_ANNOTATION, MANAGER_ANNOTATION, TYPE_ANNOTATION


class HostGatewayBackend:
    """See the module."""

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._index = 0
        self._routes: dict[str, str] = {}  # pod CIDR → node IP

    def prepare(self, local: Local) -> Prepared:
        """As `Backend.prepare`."""
        link = underlay(self._netlink, local.ip)
        self._index = link.index
        self._routes = {
            route.destination: route.gateway
            for route in self._netlink.routes()
            if route.protocol == PROTOCOL and route.index == link.index
        }
        return Prepared(
            mtu=link.mtu,
            annotations={
                TYPE_ANNOTATION: "host-gw",
                DATA_ANNOTATION: "null",
                ADDRESS_ANNOTATION: local.ip,
                MANAGER_ANNOTATION: "true",
            },
        )

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
        """Remove our routes."""
        self._netlink.send(
            [
                netlink.del_route(route.destination, gateway=route.gateway, index=route.index)
                for route in self._netlink.routes()
                if route.protocol == PROTOCOL
            ]
        )
