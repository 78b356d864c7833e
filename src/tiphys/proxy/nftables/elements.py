"""One service port → the elements it has in the maps and sets of `layout`. Pure.

Keys and values are in nft's own notation, as they are written and as a listing gives them back.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tiphys.proxy.ledger import Element, Elements
from tiphys.proxy.model import Choice, Endpoint, ServicePort
from tiphys.proxy.nftables.layout import Mode, TrafficClass


class Pools(NamedTuple):
    """The two pools of a service port, as slots filled with endpoints; see `fill_slots`."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]


def fill_slots(previous: tuple[Endpoint, ...], wanted: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Place endpoints into slots 0…n-1, each where it was if that slot still exists.

        previous  A B C D     wanted A C D E   →  A E C D
        previous  A B C D     wanted A C D     →  A D C      (only slot 1 changes; slot 3 goes)

    so that one endpoint more or less changes one or two elements, however many there are.
    """
    remaining = {(each.ip, each.port): each for each in wanted}
    slots: list[Endpoint | None] = [None] * len(remaining)
    for index, old in enumerate(previous[: len(slots)]):
        slots[index] = remaining.pop((old.ip, old.port), None)
    rest = iter(remaining.values())
    return tuple(slot if slot is not None else next(rest) for slot in slots)


def pool_elements(pool: int, protocol: str, slots: tuple[Endpoint, ...]) -> Elements:
    """The endpoints of one pool."""
    name = f"endpoints-{protocol}"
    return {Element(name, f"{pool} . {index}"): f"{each.ip} . {each.port}" for index, each in enumerate(slots)}


def front_elements(
    service: ServicePort, choice: Choice, cluster: int, local: int, handle: Callable[[TrafficClass, int], int]
) -> Elements:
    """Everything of a service port but its endpoints.

    `cluster` and `local` are the numbers of its pools; `handle(class, pool)` gives the value a
    front's address is mapped to.
    """
    elements: Elements = {Element("cluster-ips", service.cluster_ip): ""}

    def to(mode: Mode, endpoints: tuple[Endpoint, ...], pool: int) -> str:
        return str(handle(TrafficClass(mode, service.protocol, len(endpoints), service.affinity_seconds), pool))

    def at(address: str) -> str:
        return f"{address} . {service.protocol} . {service.port}"

    inside = (choice.local, local) if service.internal_local else (choice.cluster, cluster)
    if inside[0]:
        elements[Element("service-ips", at(service.cluster_ip))] = to(Mode.INTERNAL, *inside)
    elif choice.any_anywhere:
        elements[Element("drop-ips", at(service.cluster_ip))] = ""

    fronts = [("ips", at(address)) for address in (*service.external_ips, *service.load_balancer_ips)]
    if service.node_port:
        fronts.append(("nodeports", f"{service.protocol} . {service.node_port}"))
    for suffix, key in fronts:
        mode = Mode.PRESERVE if service.external_local else Mode.EXTERNAL
        outside = (choice.local, local) if service.external_local else (choice.cluster, cluster)
        if outside[0]:
            elements[Element(f"service-{suffix}", key)] = to(mode, *outside)
        elif choice.any_anywhere:
            elements[Element(f"drop-{suffix}", key)] = ""
        else:
            elements[Element(f"reject-{suffix}", key)] = ""
        if service.external_local and choice.cluster:
            elements[Element(f"internal-{suffix}", key)] = to(Mode.SHORT, choice.cluster, cluster)
    elements.update(_firewall(service))
    elements.update(
        {
            Element("hairpin-connections", f"{each.ip} . {each.ip}"): ""
            for each in (*choice.cluster, *choice.local)
            if each.is_local
        }
    )
    return elements


def _firewall(service: ServicePort) -> Elements:
    """Who may reach the load balancer's addresses; nothing when everybody may."""
    if not service.load_balancer_source_ranges:
        return {}
    elements: Elements = {}
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in service.load_balancer_source_ranges]
    version = ipaddress.ip_address(service.cluster_ip).version
    # Overlapping intervals are refused by the kernel.
    allowed = list(ipaddress.collapse_addresses([each for each in networks if each.version == version]))  # type: ignore[type-var]  # typeshed wants one family
    for address in service.load_balancer_ips:
        key = f"{address} . {service.protocol} . {service.port}"
        elements[Element("firewall-ips", key)] = ""
        for network in allowed:
            cidr = network.network_address if network.num_addresses == 1 else network
            elements[Element("firewall-allow", f"{key} . {cidr}")] = ""
    return elements
