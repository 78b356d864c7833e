"""One service port → its virtual servers, the addresses they need, and its elements in the table of `layout`. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tiphys.proxy.ipvs.kernel import Place, Server
from tiphys.proxy.ledger import Element, Elements
from tiphys.proxy.model import Choice, Endpoint, ServicePort


@dataclass(frozen=True, slots=True)
class Pool:
    """What is behind a virtual server."""

    places: frozenset[Place]
    affinity_seconds: int = 0  # for so long a client stays with its endpoint; 0: it does not
    # Connections end where both sides see it, so that one can wait for it: UDP's and SCTP's are only forgotten.
    drains: bool = True


Servers = dict[Server, Pool]


def servers(service: ServicePort, choice: Choice, node_ips: Sequence[str], mark: int) -> Servers:
    """The virtual servers; `mark` names the one of those who take the short way."""

    def pool(endpoints: tuple[Endpoint, ...]) -> Pool:
        places = frozenset(Place(each.ip, each.port) for each in endpoints)
        return Pool(places, service.affinity_seconds, drains=service.protocol == "tcp")

    inside = choice.local if service.internal_local else choice.cluster
    outside = pool(choice.local if service.external_local else choice.cluster)
    found = {
        Server(service.protocol, address, service.port): outside
        for address in (*service.external_ips, *service.load_balancer_ips)
    }
    if service.node_port:
        found |= {Server(service.protocol, address, service.node_port): outside for address in node_ips}
    found[Server(service.protocol, service.cluster_ip, service.port)] = pool(inside)
    if takes_short_way(service, choice):
        found[Server(mark=mark)] = pool(choice.cluster)
    return found


def takes_short_way(service: ServicePort, choice: Choice) -> bool:
    """Whether pods and the node are sent elsewhere than clients from outside."""
    return service.external_local and service.is_external and bool(choice.cluster)


def addresses(service: ServicePort) -> frozenset[str]:
    """What the node has to take for its own, that IPVS sees the packets."""
    return frozenset((service.cluster_ip, *service.external_ips, *service.load_balancer_ips))


def elements(service: ServicePort, choice: Choice, node_ips: Sequence[str], mark: int) -> Elements:
    """Everything of a service port in the table."""

    def at(address: str) -> str:
        return f"{address} . {service.protocol} . {service.port}"

    found: Elements = {Element("cluster-ips", at(service.cluster_ip)): ""}
    inside = choice.local if service.internal_local else choice.cluster
    if not inside:
        found[Element(_refusal(choice, "ips"), at(service.cluster_ip))] = ""
    fronts = [("ips", at(address)) for address in (*service.external_ips, *service.load_balancer_ips)]
    for _, key in fronts:
        found[Element("local-ips" if service.external_local else "external-ips", key)] = ""
    if service.node_port:
        fronts.append(("nodeports", f"{service.protocol} . {service.node_port}"))
        if not service.external_local:
            found[Element("masquerade-nodeports", fronts[-1][1])] = ""
    outside = choice.local if service.external_local else choice.cluster
    for kind, key in fronts:
        if not outside:
            found[Element(_refusal(choice, kind), key)] = ""
        if takes_short_way(service, choice):
            found[Element(f"short-{kind}", key)] = str(mark)
    here = {each.ip for each in (*choice.cluster, *choice.local) if each.is_local}
    found |= {Element("hairpin-connections", f"{ip} . {ip}"): "" for ip in here}
    found |= dict.fromkeys(_firewall(service, node_ips), "")
    return found


def _refusal(choice: Choice, kind: str) -> str:
    """The set of what has no endpoint here: somewhere else there may be one."""
    return f"{'drop' if choice.any_anywhere else 'reject'}-{kind}"


def _firewall(service: ServicePort, node_ips: Sequence[str]) -> Iterator[Element]:
    """Who may reach the load balancer's addresses; nothing when everybody may."""
    if not service.load_balancer_source_ranges:
        return
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in service.load_balancer_source_ranges]
    version = ipaddress.ip_address(service.cluster_ip).version
    own = [each for each in networks if each.version == version]
    is_node_allowed = any(ipaddress.ip_address(ip) in network for ip in node_ips for network in own)
    for address in service.load_balancer_ips:
        key = f"{address} . {service.protocol} . {service.port}"
        yield Element("firewall-ips", key)
        # The node asks with the balancer's own address, as it has it too.
        allowed = [*own, ipaddress.ip_network(address)] if is_node_allowed else own
        # Overlapping intervals are refused by the kernel.
        for network in ipaddress.collapse_addresses(allowed):  # type: ignore[type-var]  # typeshed wants one family
            cidr = network.network_address if network.num_addresses == 1 else network
            yield Element("firewall-allow", f"{key} . {cidr}")
