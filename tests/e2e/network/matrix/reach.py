"""Who reaches what in a cluster without policies, from the documentation of Services alone.

https://kubernetes.io/docs/concepts/services-networking/service/
https://kubernetes.io/docs/reference/networking/virtual-ips/
https://kubernetes.io/docs/tutorials/services/source-ip/
https://kubernetes.io/docs/concepts/services-networking/ingress/

A row of the table is a target, its truth a function of the source: which servers may answer (or the word for what
happens instead), and which address they see where that is promised.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.e2e.cluster.harness import until
from tests.e2e.netlab import sh
from tests.e2e.network.matrix.site import HOST_MAPPED, HOST_PORT, NODES, PAGES, Object, Question, Site, Source, settle

EVERYONE = frozenset({"a-1", "a-2"})  # the endpoints; there is none on node 3
REFUSED, TIMEOUT, UNREACHABLE = (frozenset({each}) for each in ("refused", "timeout", "unreachable"))
EXTERNAL = {4: "198.51.100.{}", 6: "2001:db8:ffff::{}"}
# Behind the ingress: host → Service.
SITES = {"pages.example": "pages", "empty.example": "empty"}
# Service → node port.
NODE_PORTS = {"cluster": 30080, "local": 30081, "empty": 30082}


@dataclass(frozen=True)
class Truth:
    """`answers`: those who may answer, or what happens; `client`: the address they see, "": not promised."""

    answers: frozenset[str]
    client: str = ""

    def allows(self, answer: str) -> bool:
        name, _, client = answer.partition(" ")
        return name in self.answers and (not self.client or not client or client == self.client)

    def __str__(self) -> str:
        return "|".join(sorted(self.answers)) + (f" seeing {self.client}" if self.client else "")


@dataclass(frozen=True)
class Target:
    """One column of the table."""

    name: str
    host: str
    port: int
    truth: Callable[[Source], Truth]
    by_name: bool = False  # asked by those only who have the cluster's DNS
    protocols: tuple[str, ...] = ("tcp", "udp")


def always(answer: str) -> Callable[[Source], Truth]:
    """The same for everybody."""
    return lambda _: Truth(frozenset({answer}))


def services(site: Site) -> list[Object]:
    """Every type of Service, with the same port for TCP and UDP."""
    found = []

    def add(name: str, node_port: int = 0, **spec: object) -> None:
        port = {"port": 80, "targetPort": 8080, **({"nodePort": node_port} if node_port else {})}
        ports = [{"name": each.lower(), "protocol": each, **port} for each in ("TCP", "UDP")]
        words = {"selector": {"app": "web"}, "ports": ports, **spec}
        found.append(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "mx-a"},
                "spec": words if spec.get("type") == "ExternalName" else site.spec(**words),
            }
        )

    external = [each.format(7) for version, each in EXTERNAL.items() if version in site.families]
    external_local = [each.format(8) for version, each in EXTERNAL.items() if version in site.families]
    allowed = [*_cluster_cidrs(site), *site.node_ips[1].values()]
    add("cluster", NODE_PORTS["cluster"], type="LoadBalancer", externalIPs=external)
    add("local", NODE_PORTS["local"], type="LoadBalancer", externalTrafficPolicy="Local", externalIPs=external_local)
    add("guarded", type="LoadBalancer", loadBalancerSourceRanges=[_network(each) for each in allowed])
    add("empty", NODE_PORTS["empty"], type="LoadBalancer", selector={"app": "nobody"})
    add("inside", internalTrafficPolicy="Local")
    add("headless", clusterIP="None")
    add("alias", type="ExternalName", externalName="cluster.mx-a.svc.cluster.local")
    add("pages", ports=[{"port": 80, "targetPort": PAGES}])
    return found


def ingress() -> Object:
    """A host for each of `SITES`, with all its paths."""
    rules = [
        {
            "host": host,
            "http": {
                "paths": [
                    {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": name, "port": {"number": 80}}}}
                ]
            },
        }
        for host, name in SITES.items()
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "sites", "namespace": "mx-a"},
        "spec": {"rules": rules},
    }


def _network(address: str) -> str:
    return str(ipaddress.ip_network(address, strict=False))


def _cluster_cidrs(site: Site) -> list[str]:
    """The pod CIDRs of every node."""
    return [cidr for number in NODES for cidr in site.pod_cidrs[number].values()]


def _inside(source: Source) -> bool:
    return source.kind != "outside"


class Reach:
    """The Services of a site, and the table."""

    def __init__(self, site: Site) -> None:
        self.site = site
        site.cluster.apply("\n---\n".join(map(json.dumps, [*services(site), ingress()])))
        self.cluster_ips: dict[str, dict[int, str]] = {}
        self.balanced: dict[str, dict[int, str]] = {}
        for name in ("cluster", "local", "guarded", "empty", "inside"):
            until(lambda name=name: self._read(name), f"the addresses of Service {name}", 30)  # type: ignore[misc]  # a lambda's default
        for version in site.families:  # the outside machine's router
            for last, node in ((7, 1), (8, 3)):
                sh(f"ip route add {EXTERNAL[version].format(last)} via {site.node_ips[node][version]}", site.outside)

    def _read(self, name: str) -> bool:
        from tests.e2e.network.matrix.site import by_family

        found = self.site.cluster.get("service", name, "-n", "mx-a")
        self.cluster_ips[name] = by_family(found["spec"]["clusterIPs"])
        ingress = found["status"].get("loadBalancer", {}).get("ingress", [])
        self.balanced[name] = by_family([each["ip"] for each in ingress])
        wanted = len(self.site.families) if name != "inside" else 0
        return len(self.balanced[name]) == wanted and len(self.cluster_ips[name]) == len(self.site.families)

    # --- the table -------------------------------------------------------------------------------

    def targets(self, version: int) -> Iterator[Target]:
        """Every target in one family."""
        yield from self._pods(version)
        yield from self._cluster_ips(version)
        yield from self._node_ports(version)
        yield from self._external(version)
        yield from self._ingress(version)
        yield from self._names(version)

    def _pods(self, version: int) -> Iterator[Target]:
        site = self.site
        for name in EVERYONE:
            address = site.pod_ips[name][version]
            yield Target(f"pod {name}", address, 8080, lambda s, name=name: self._direct(s, name, version))  # type: ignore[misc]  # a lambda's default
        for at in NODES:
            address = site.node_ips[at][version]
            yield Target(
                f"host-{at}",
                address,
                HOST_PORT,
                lambda s, at=at: Truth(frozenset({f"host-{at}"}), self._at_node(s, at, version)),  # type: ignore[misc]  # a lambda's default
            )
            mapped = frozenset({"a-1"}) if at == 1 else REFUSED
            yield Target(f"hostPort at {at}", address, HOST_MAPPED, lambda _, mapped=mapped: Truth(mapped))  # type: ignore[misc]  # a lambda's default

    def _direct(self, source: Source, name: str, version: int) -> Truth:
        """A pod's own address: every pod and node reaches it, and no address is rewritten."""
        if not _inside(source):
            return Truth(UNREACHABLE)
        return Truth(frozenset({name}), self._own(source, version))

    def _own(self, source: Source, version: int) -> str:
        if source.kind == "pod":
            return self.site.pod_ips[source.name][version]
        return self.site.outside_ips[version] if source.kind == "outside" else ""

    def _at_node(self, source: Source, at: int, version: int) -> str:
        """What a node sees of a client: a pod of another node has left the pod network, as its node."""
        if source.kind == "outside":
            return self.site.outside_ips[version]
        if source.kind == "pod" and source.at == at:
            return self.site.pod_ips[source.name][version]
        return self.site.node_ips[source.at][version]

    def _cluster_ips(self, version: int) -> Iterator[Target]:
        def plain(source: Source) -> Truth:
            if not _inside(source):
                return Truth(UNREACHABLE)
            # A server that reaches itself must be masqueraded to get its own answer.
            return Truth(EVERYONE, "" if source.name in EVERYONE else self._pod_only(source, version))

        def inside(source: Source) -> Truth:
            if not _inside(source):
                return Truth(UNREACHABLE)
            return Truth(frozenset({f"a-{source.at}"}) if source.at < 3 else TIMEOUT)

        def refused(source: Source) -> Truth:
            return Truth(REFUSED if _inside(source) else UNREACHABLE)

        yield Target("cluster IP", self.cluster_ips["cluster"][version], 80, plain)
        yield Target("another port of it", self.cluster_ips["cluster"][version], 81, refused)
        yield Target("cluster IP without endpoints", self.cluster_ips["empty"][version], 80, refused)
        yield Target("internal policy Local", self.cluster_ips["inside"][version], 80, inside)

    def _pod_only(self, source: Source, version: int) -> str:
        return self._own(source, version) if source.kind == "pod" else ""

    def _node_ports(self, version: int) -> Iterator[Target]:
        for at in NODES:
            address = self.site.node_ips[at][version]
            yield Target(f"node port at {at}", address, NODE_PORTS["cluster"], lambda _: Truth(EVERYONE))
            yield Target(f"node port without endpoints at {at}", address, NODE_PORTS["empty"], lambda _: Truth(REFUSED))
            yield Target(
                f"local node port at {at}",
                address,
                NODE_PORTS["local"],
                lambda s, at=at: self._local_node_port(s, at, version),  # type: ignore[misc]  # a lambda's default
            )

    def _local_node_port(self, source: Source, at: int, version: int) -> Truth:
        """Policy Local: who is inside and asks its own node is served by any endpoint; others by those there."""
        if source.at == at:
            return Truth(EVERYONE)
        if at == 3:
            return Truth(TIMEOUT)
        return Truth(frozenset({f"a-{at}"}), self._at_node(source, at, version))

    def _external(self, version: int) -> Iterator[Target]:
        def kept(source: Source) -> Truth:
            """Policy Local from outside: the source address is kept."""
            return Truth(EVERYONE, "" if _inside(source) else self.site.outside_ips[version])

        def through_3(source: Source) -> Truth:
            return Truth(EVERYONE if _inside(source) else TIMEOUT)

        def guarded(source: Source) -> Truth:
            is_allowed = source.kind == "pod" or source.at == 1
            return Truth(EVERYONE if is_allowed else TIMEOUT)

        yield Target("load balancer", self.balanced["cluster"][version], 80, lambda _: Truth(EVERYONE))
        yield Target("local load balancer", self.balanced["local"][version], 80, kept)
        yield Target("guarded load balancer", self.balanced["guarded"][version], 80, guarded)
        yield Target("load balancer without endpoints", self.balanced["empty"][version], 80, lambda _: Truth(REFUSED))
        yield Target("external IP", EXTERNAL[version].format(7), 80, lambda _: Truth(EVERYONE))
        yield Target("local external IP by node 3", EXTERNAL[version].format(8), 80, through_3)

    def _ingress(self, version: int) -> Iterator[Target]:
        """Every node's proxy, which tells whom it serves for."""
        for at in NODES:
            address = self.site.node_ips[at][version]
            yield Target(
                f"ingress at {at}",
                address,
                80,
                partial(self._by_ingress, at, version),
                protocols=("http/pages.example",),
            )
            for site, answer in (("empty.example", "503"), ("unknown.example", "404")):
                yield Target(f"{site} at {at}", address, 80, always(answer), protocols=(f"http/{site}",))
            yield Target(f"ingress at {at}", address, 80, lambda _: Truth(REFUSED), protocols=("udp",))

    def _by_ingress(self, at: int, version: int, source: Source) -> Truth:
        return Truth(EVERYONE, self._at_node(source, at, version))

    def _names(self, version: int) -> Iterator[Target]:
        if version != self.site.families[0]:
            return  # which family a name leads to is the resolver's choice
        for name, port in (("headless.mx-a", 8080), ("alias.mx-a", 80), ("cluster.mx-a.svc.cluster.local", 80)):
            yield Target(f"name {name}", name, port, lambda _: Truth(EVERYONE), by_name=True)

    # --- asking ----------------------------------------------------------------------------------

    def sources(self) -> list[Source]:
        pods = [each for each in self.site.pods() if each.space == "mx-b" or each.name == "a-1"]
        nodes = [Source("node", at) for at in NODES]
        return [*pods, *self.site.hosts(), *nodes, Source("outside")]

    def check(self, times: int = 2) -> int:
        """Ask everything until all is as it should be; returns how many pairs there are."""
        table: dict[Source, dict[str, Truth]] = {}
        questions: dict[Source, list[Question]] = {}
        for source in self.sources():
            table[source], questions[source] = {}, []
            for version in self.site.families:
                for target in self.targets(version):
                    if target.by_name and source.kind not in ("pod", "host"):
                        continue
                    for protocol in target.protocols:
                        key = f"{target.name} {protocol} IPv{version}"
                        table[source][key] = target.truth(source)
                        questions[source] += [
                            (f"{key}#{number}", protocol, target.host, target.port) for number in range(times)
                        ]

        def wrong() -> list[str]:
            return [
                f"{source} → {key}: {answer} instead of {table[source][key.partition('#')[0]]}"
                for source, answers in self.site.ask(questions).items()
                for key, answer in answers.items()
                if not table[source][key.partition("#")[0]].allows(answer)
            ]

        settle(self.site, wrong, "the table of who reaches what")
        return sum(map(len, table.values()))
