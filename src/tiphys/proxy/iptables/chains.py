"""One service port → its iptables chains and its lines in the lists all services share. Pure.

The chains have the names kube-proxy gives them; a connection to a Service goes

    KUBE-SERVICES ─ cluster IP ──────────→ KUBE-SVC (any endpoint) or KUBE-SVL (local ones)
         │        ─ external IP, balancer → KUBE-EXT, or KUBE-FW (source ranges) → KUBE-EXT
         └ KUBE-NODEPORTS ──────────────→ KUBE-EXT ─→ masquerade → KUBE-SVC   (policy Cluster)
                                                    └→ KUBE-SVL               (policy Local)
    KUBE-SVC, KUBE-SVL ─ at random, or by affinity → KUBE-SEP, one an endpoint ─→ DNAT

What has no endpoint is rejected or dropped in the filter table.
https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-mode-iptables
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tiphys.proxy.model import Choice, Endpoint, PortKey, ServicePort

MARK_MASQ: Final = "KUBE-MARK-MASQ"
# The lists: chains to which every service port adds lines; table and name.
NAT_SERVICES: Final = ("nat", "KUBE-SERVICES")
NAT_NODEPORTS: Final = ("nat", "KUBE-NODEPORTS")
FILTER_SERVICES: Final = ("filter", "KUBE-SERVICES")
EXTERNAL_SERVICES: Final = ("filter", "KUBE-EXTERNAL-SERVICES")
FIREWALL: Final = ("filter", "KUBE-PROXY-FIREWALL")
LISTS: Final = (NAT_SERVICES, NAT_NODEPORTS, FILTER_SERVICES, EXTERNAL_SERVICES, FIREWALL)
PREFIXES: Final = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
REJECT: Final = "REJECT"
DROP: Final = "DROP"

List = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all rules of a node and address family have in common."""

    family: str = "ip"
    cluster_cidr: str = ""  # sources inside it are pods; empty: they cannot be told from others
    masquerade_all: bool = False


@dataclass(slots=True)
class PortRules:
    """The rules of one service port: its own chains (in nat), and lines in the lists."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[List, list[str]] = field(default_factory=dict)

    def add(self, where: List, line: str) -> None:
        """One line more in a list."""
        self.lines.setdefault(where, []).append(line)


def chain_name(prefix: str, *words: str) -> str:
    """A chain's name, at most 28 characters as iptables wants."""
    digest = base64.b32encode(hashlib.sha256(" ".join(words).encode()).digest()).decode()
    return f"{prefix}{digest[:16]}"


def port_rules(service: ServicePort, choice: Choice, site: Site, node_ips: Sequence[str]) -> PortRules:
    """Everything for one service port."""
    rules = PortRules()
    comment = f'-m comment --comment "{service.key}"'
    key = _words(service.key)
    any_chain, local_chain, external = (chain_name(each, *key) for each in ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-"))
    if choice.cluster:
        rules.chains[any_chain] = [*_masquerade_cluster_ip(service, site), *_spread(service, choice.cluster, rules)]
    if choice.local:
        rules.chains[local_chain] = [*_masquerade_cluster_ip(service, site), *_spread(service, choice.local, rules)]

    inside, chain = (choice.local, local_chain) if service.internal_local else (choice.cluster, any_chain)
    at_cluster_ip = f"{_to(service.cluster_ip, service.port, service)} {comment}"
    if inside:
        rules.add(NAT_SERVICES, f"{at_cluster_ip} -j {chain}")
    else:
        rules.add(FILTER_SERVICES, f"{at_cluster_ip} -j {DROP if choice.any_anywhere else REJECT}")

    outside = choice.local if service.external_local else choice.cluster
    if service.is_external and (outside or (service.external_local and choice.cluster)):
        rules.chains[external] = list(_external(service, choice, site, any_chain, local_chain))
    target = external if external in rules.chains else ""
    for address in (*service.external_ips, *service.load_balancer_ips):
        at = f"{_to(address, service.port, service)} {comment}"
        guarded = address in service.load_balancer_ips and bool(service.load_balancer_source_ranges)
        if guarded and target:
            firewall = chain_name("KUBE-FW-", *key)
            ranges = [cidr for cidr in service.load_balancer_source_ranges if (":" in cidr) == (site.family == "ip6")]
            rules.chains[firewall] = [f"-s {cidr} -j {target}" for cidr in ranges]
            rules.add(NAT_SERVICES, f"{at} -j {firewall}")
            # Whoever the firewall did not send on still asks for the balancer's address.
            rules.add(FIREWALL, f"{at} -j {DROP}")
        elif target:
            rules.add(NAT_SERVICES, f"{at} -j {target}")
        if not outside:
            rules.add(EXTERNAL_SERVICES, f"{at} -j {DROP if choice.any_anywhere else REJECT}")
    if service.node_port:
        number = f"-p {service.protocol} -m {service.protocol} --dport {service.node_port} {comment}"
        if target:
            rules.add(NAT_NODEPORTS, f"{number} -j {target}")
        if not outside:
            verdict = DROP if choice.any_anywhere else REJECT
            for address in node_ips:
                at = f"{_to(address, service.node_port, service)} {comment}"
                rules.add(EXTERNAL_SERVICES, f"{at} -j {verdict}")
    return rules


def _external(service: ServicePort, choice: Choice, site: Site, any_chain: str, local_chain: str) -> Iterator[str]:
    """Where traffic to an external address goes."""
    if not service.external_local:
        yield f"-j {MARK_MASQ}"
        yield f"-j {any_chain}"
        return
    if choice.cluster:
        # Pods and the node itself take the short way to any endpoint.
        if site.cluster_cidr:
            yield f"-s {site.cluster_cidr} -j {any_chain}"
        yield f"-m addrtype --src-type LOCAL -j {MARK_MASQ}"
        yield f"-m addrtype --src-type LOCAL -j {any_chain}"
    if choice.local:
        yield f"-j {local_chain}"


def _masquerade_cluster_ip(service: ServicePort, site: Site) -> Iterator[str]:
    at = _to(service.cluster_ip, service.port, service)
    if site.masquerade_all:
        yield f"{at} -j {MARK_MASQ}"
    elif site.cluster_cidr:
        yield f"! -s {site.cluster_cidr} {at} -j {MARK_MASQ}"


def _spread(service: ServicePort, endpoints: Sequence[Endpoint], rules: PortRules) -> Iterator[str]:
    """The rules that choose an endpoint; their chains are added on the way."""
    names = [_endpoint_chain(service, each, rules) for each in endpoints]
    if service.affinity_seconds:
        for name in names:
            yield f"-m recent --name {name} --rcheck --seconds {service.affinity_seconds} --reap --rsource -j {name}"
    for index, name in enumerate(names):
        remaining = len(names) - index
        chance = f"-m statistic --mode random --probability {1 / remaining:.10f} " if remaining > 1 else ""
        yield f"{chance}-j {name}"


def _endpoint_chain(service: ServicePort, endpoint: Endpoint, rules: PortRules) -> str:
    is_v6 = ":" in endpoint.ip
    where = f"[{endpoint.ip}]:{endpoint.port}" if is_v6 else f"{endpoint.ip}:{endpoint.port}"
    name = chain_name("KUBE-SEP-", *_words(service.key), where)
    remember = f"-m recent --name {name} --set --rsource " if service.affinity_seconds else ""
    rules.chains[name] = [
        f"-s {endpoint.ip} -j {MARK_MASQ}",
        f"-p {service.protocol} -m {service.protocol} {remember}-j DNAT --to-destination {where}",
    ]
    return name


def _to(address: str, port: int, service: ServicePort) -> str:
    return f"-d {address} -p {service.protocol} -m {service.protocol} --dport {port}"


def _words(key: PortKey) -> tuple[str, str, str]:
    return str(key.service), key.port, key.protocol
