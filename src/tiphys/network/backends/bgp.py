"""bgp: the nodes tell each other their pod ranges by BGP, for nodes on one link, and routers beside them.

BIRD speaks it (`tiphys.network.bgp`), one process an address family; the routes it puts into the
kernel carry a metric of ours. No headers are added, so pods have the full MTU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tiphys.base import netlink
from tiphys.base.netlink import Netlink, Route
from tiphys.network.backends.model import Local, Peer, Prepared, announcement
from tiphys.network.backends.routes import FAMILIES, underlay
from tiphys.network.bgp.bird import Bird
from tiphys.network.bgp.config import METRIC, bird_config
from tiphys.network.bgp.settings import BgpSettings

BIRD_PROTOCOL: Final = 12  # of its routes, in rt_protos


class BgpBackend:
    """See the module. `directory`: for BIRD's files. `settings` and `balanced` may be set before any `sync`."""

    def __init__(self, version: int = 4, directory: Path | None = None) -> None:
        self._version = version
        self._netlink = Netlink()
        self._bird = Bird((directory or Path("/run/tiphys")) / f"bird{version}")
        self._local: Local | None = None
        self._written = ""
        self.settings = BgpSettings()
        self.balanced: tuple[str, ...] = ()  # addresses of load balancers this node answers for

    def prepare(self, local: Local) -> Prepared:
        """As `Backend.prepare`."""
        link = underlay(self._netlink, local.ip)
        self._local = local
        return Prepared(mtu=link.mtu, annotations=announcement(self._version, "bgp", "null", local.ip))

    def sync(self, peers: Sequence[Peer]) -> list[str]:
        """As `Backend.sync`; a node whose route has not come yet is a failure."""
        assert self._local is not None
        own = [each for each in self.balanced if (":" in each) == (self._version == 6)]
        text = bird_config(self._local, peers, self.settings, own)
        if text != self._written:
            self._bird.configure(text)
            self._written = text
        there = {route.destination for route in self._ours()}
        return [
            f"BGP has brought no route to {each.cidr} of {each.name} yet" for each in peers if each.cidr not in there
        ]

    def close(self) -> None:
        self._bird.close()
        self._netlink.close()

    def clean_up(self) -> None:
        """Remove what BIRD put into the kernel for us."""
        self._netlink.send(
            [
                netlink.del_route(each.destination, gateway=each.gateway, index=each.index, metric=METRIC)
                for each in self._ours()
            ]
        )

    def _ours(self) -> list[Route]:
        routes = self._netlink.routes(FAMILIES[self._version])
        return [each for each in routes if each.protocol == BIRD_PROTOCOL and each.metric == METRIC]
