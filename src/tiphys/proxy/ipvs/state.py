"""The virtual servers, addresses and elements there should be and those the kernel has; what lies between. Pure.

```
 wanted   10.96.0.1 443/tcp ─→ {default/kubernetes: Pool{172.18.0.2 6443}}    the first owner's pool counts
 have     10.96.0.1 443/tcp ─→ rr, 172.18.0.2 6443 weight 1, 172.18.0.3 6443 weight 0
```
A TCP endpoint that is wanted no more is given weight 0: it gets no new connection, keeps those it has, and is
removed when they have ended (`drained`). UDP and SCTP have no end that could be waited for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tiphys.proxy.ipvs import fronts
from tiphys.proxy.ipvs.fronts import Pool, Servers
from tiphys.proxy.ipvs.kernel import Change, Manner, Place, Real, Server
from tiphys.proxy.ipvs.layout import SHORT_BASE, SHORT_BITS, Layout
from tiphys.proxy.ledger import Elements, Ledger
from tiphys.proxy.model import Choice, PortKey, ServicePort
from tiphys.proxy.numbers import Numbers


@dataclass(slots=True)
class _Programmed:
    """What one service port has now."""

    service: ServicePort
    choice: Choice
    mark: int
    servers: Servers = field(default_factory=dict)
    elements: Elements = field(default_factory=dict)


@dataclass(slots=True)
class Known:
    """A virtual server as the kernel has it."""

    manner: Manner
    weights: dict[Place, int] = field(default_factory=dict)


class IpvsRules:
    """See the module; for one address family. One thread."""

    def __init__(self, layout: Layout, scheduler: str, excluded: tuple[str, ...] = ()) -> None:
        self.layout = layout
        self._scheduler = scheduler
        self._excluded: Final = [ipaddress.ip_network(cidr, strict=False) for cidr in excluded]
        self._services: dict[PortKey, _Programmed] = {}
        self._wanted: dict[Server, dict[PortKey, Pool]] = {}
        self._have: dict[Server, Known] = {}
        self._dirty: set[Server] = set()
        self._ledger = Ledger()
        self._marks = Numbers((1 << SHORT_BITS) - 1)
        self._node_ips: tuple[str, ...] = ()
        self._addresses: dict[str, int] = {}  # of Services, with how many ports want them

    # --- what should be there ----------------------------------------------------------------

    def set_service(self, service: ServicePort, choice: Choice) -> None:
        """As rules.Wanted."""
        before = self._services.get(service.key)
        if before is None:
            before = _Programmed(service, choice, SHORT_BASE | self._marks.named(str(service.key)))
        else:
            self._count_addresses(before.service, -1)
        self._count_addresses(service, 1)
        servers = fronts.servers(service, choice, self._node_ips, before.mark)
        elements = fronts.elements(service, choice, self._node_ips, before.mark)
        self._replace(service.key, before.servers, servers)
        self._ledger.replace(service.key, before.elements, elements)
        self._services[service.key] = _Programmed(service, choice, before.mark, servers, elements)

    def remove_service(self, key: PortKey) -> None:
        """As rules.Wanted."""
        before = self._services.pop(key, None)
        if before is None:
            return
        self._replace(key, before.servers, {})
        self._ledger.replace(key, before.elements, {})
        self._count_addresses(before.service, -1)
        self._marks.free(before.mark ^ SHORT_BASE)

    def set_node_ips(self, addresses: tuple[str, ...]) -> None:
        """As rules.Wanted."""
        if addresses == self._node_ips:
            return
        self._node_ips = addresses
        self._ledger.replace_of_node("nodeport-ips", addresses)
        for each in list(self._services.values()):
            if each.service.node_port or each.service.load_balancer_source_ranges:
                self.set_service(each.service, each.choice)

    def set_service_cidrs(self, cidrs: tuple[str, ...]) -> None:
        """As rules.Wanted."""
        self._ledger.replace_of_node("service-cidrs", cidrs)

    def addresses(self) -> frozenset[str]:
        """Every address of a Service."""
        return frozenset(self._addresses)

    def set_bound(self, addresses: frozenset[str]) -> None:
        """Those of them that are no address the node has anyway: only there every other port is refused."""
        self._ledger.replace_of_node("service-ips", tuple(sorted(addresses)))

    # --- what is in the kernel ---------------------------------------------------------------

    def adopt(self, known: Mapping[Server, Known]) -> None:
        """What the kernel has, in place of what it was thought to have; excluded addresses are others' business."""
        self._have = {server: each for server, each in known.items() if not self._is_excluded(server)}
        self._dirty.update(self._have)
        self._dirty.update(self._wanted)

    def adopt_elements(self, found: Mapping[str, Mapping[str, str]] | None) -> None:
        """The elements of the table; None: there is none, and it will be made."""
        if found is None:
            self._ledger.forget_kernel()
        else:
            self._ledger.adopt(found)

    def script(self) -> str:
        """What brings the table to what is wanted; empty when it is there already."""
        return "".join(self._ledger.commands(self.layout.name))

    def script_applied(self) -> None:
        """The script was accepted by the kernel."""
        self._ledger.applied()

    def changes(self) -> tuple[list[Change], list[Change]]:
        """What brings IPVS to what is wanted: what is new or changes, and what goes."""
        coming: list[Change] = []
        going: list[Change] = []
        for server in sorted(self._dirty):
            pool = self._pool(server)
            if pool is not None:
                coming += self._updates(server, pool)
                going += [
                    Change("del", server, place=place)
                    for place in self._have.get(server, Known(Manner(""))).weights
                    if place not in pool.places and not pool.drains
                ]
            elif server in self._have:
                going.append(Change("del", server))
        return coming, going

    def applied(self) -> None:
        """The last changes were accepted by the kernel."""
        for server in self._dirty:
            pool = self._pool(server)
            if pool is None:
                self._have.pop(server, None)
                continue
            before = self._have.get(server)
            weights = dict.fromkeys(pool.places, 1)
            if before is not None and pool.drains:
                weights |= {place: 0 for place in before.weights if place not in pool.places}
            self._have[server] = Known(self._manner(pool), weights)
        self._dirty.clear()

    def draining(self) -> list[Server]:
        """The virtual servers that have real ones without new connections."""
        return [server for server, each in self._have.items() if 0 in each.weights.values()]

    def drained(self, server: Server, reals: Mapping[Place, Real]) -> list[Change]:
        """The removal of those that have no connection any more; they count as gone."""
        known = self._have[server]
        done = [place for place, weight in known.weights.items() if not weight and not _connections(reals, place)]
        for place in done:
            del known.weights[place]
        return [Change("del", server, place=place) for place in done]

    # --- inside ------------------------------------------------------------------------------

    def _updates(self, server: Server, pool: Pool) -> Iterator[Change]:
        known, manner = self._have.get(server), self._manner(pool)
        if known is None:
            yield Change("new", server, manner)
        elif known.manner != manner:
            yield Change("set", server, manner)
        weights = known.weights if known is not None else {}
        for place in sorted(pool.places):
            if place not in weights:
                yield Change("new", server, place=place)
            elif weights[place] != 1:
                yield Change("set", server, place=place)
        if pool.drains:
            for place, weight in weights.items():
                if place not in pool.places and weight:
                    yield Change("set", server, place=place, weight=0)

    def _manner(self, pool: Pool) -> Manner:
        return Manner(self._scheduler, pool.affinity_seconds)

    def _pool(self, server: Server) -> Pool | None:
        owners = self._wanted.get(server)
        return next(iter(owners.values())) if owners else None

    def _replace(self, owner: PortKey, before: Servers, after: Servers) -> None:
        for server in before.keys() - after.keys():
            owners = self._wanted[server]
            owners.pop(owner, None)
            if not owners:
                del self._wanted[server]
            self._dirty.add(server)
        for server, pool in after.items():
            if before.get(server) != pool:
                self._wanted.setdefault(server, {})[owner] = pool
                self._dirty.add(server)

    def _count_addresses(self, service: ServicePort, step: int) -> None:
        for address in fronts.addresses(service):
            count = self._addresses.get(address, 0) + step
            if count:
                self._addresses[address] = count
            else:
                del self._addresses[address]

    def _is_excluded(self, server: Server) -> bool:
        if server.mark:
            return server.mark & ~((1 << SHORT_BITS) - 1) != SHORT_BASE
        address = ipaddress.ip_address(server.address)
        return any(address in network for network in self._excluded)


def _connections(reals: Mapping[Place, Real], place: Place) -> int:
    found = reals.get(place)
    return found.connections if found is not None else 0
