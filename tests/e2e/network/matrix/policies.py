"""NetworkPolicies made at random, and what the documentation says of every pair of pods under them.

The judgement (`passes`) reads the policies as they are written for the API and shares nothing with the code it is to
judge. https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.e2e.network.matrix.site import NODES, POD_PORTS, SPACES, Object, Question, Site, Source, settle

NAMED = {("http", "TCP"): 8080, ("dns", "UDP"): 8081}  # of every pod but a-1
PROTOCOLS = ("TCP", "UDP")


@dataclass(frozen=True)
class Person:
    """A pod as policies see it."""

    name: str
    space: str
    labels: dict[str, str]
    ip: str


def people(site: Site, version: int) -> dict[str, Person]:
    """The pods of the site, with their addresses in one family."""
    found = {}
    for pod in site.pods():
        app = "web" if pod.name in ("a-1", "a-2") else "client"
        labels = {"app": app, "at": str(pod.at), "who": pod.name}
        found[pod.name] = Person(pod.name, pod.space, labels, site.pod_ips[pod.name][version])
    return found


# --- the judgement ---------------------------------------------------------------------------------


def passes(policies: Sequence[Object], source: Person, target: Person, protocol: str, port: int) -> bool:
    """Whether a connection is let through."""
    if source.name == target.name:
        return True
    out = [each for each in policies if _is_about(each, source, "Egress")]
    into = [each for each in policies if _is_about(each, target, "Ingress")]
    leaves = not out or any(_lets(each, "egress", "to", target, target, protocol, port) for each in out)
    enters = not into or any(_lets(each, "ingress", "from", source, target, protocol, port) for each in into)
    return leaves and enters


def _is_about(policy: Object, pod: Person, direction: str) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    is_here = policy["metadata"]["namespace"] == pod.space
    return is_here and direction in types and _selects(spec["podSelector"], pod.labels)


def _lets(policy: Object, rules: str, side: str, peer: Person, target: Person, protocol: str, port: int) -> bool:
    space = policy["metadata"]["namespace"]
    for rule in policy["spec"].get(rules) or []:
        peers, ports = rule.get(side) or [], rule.get("ports") or []
        if peers and not any(_is_peer(each, space, peer) for each in peers):
            continue
        if not ports or any(_is_port(each, target, protocol, port) for each in ports):
            return True
    return False


def _is_peer(peer: Object, space: str, pod: Person) -> bool:
    if "ipBlock" in peer:
        block, address = peer["ipBlock"], ipaddress.ip_address(pod.ip)
        excepted = any(address in ipaddress.ip_network(each) for each in block.get("except", []))
        return address in ipaddress.ip_network(block["cidr"]) and not excepted
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {"team": pod.space, "kubernetes.io/metadata.name": pod.space}):
            return False
    elif pod.space != space:
        return False
    return _selects(peer.get("podSelector", {}), pod.labels)


def _is_port(entry: Object, target: Person, protocol: str, port: int) -> bool:
    if entry.get("protocol", "TCP") != protocol:
        return False
    wanted = entry.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return target.name != "a-1" and NAMED.get((wanted, protocol)) == port
    return int(wanted) <= port <= int(entry.get("endPort", wanted))


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for wanted in selector.get("matchExpressions", []):
        value, operator = labels.get(wanted["key"]), wanted["operator"]
        is_among = value in wanted.get("values", [])
        if not {"In": is_among, "NotIn": not is_among, "Exists": value is not None, "DoesNotExist": value is None}[
            operator
        ]:
            return False
    return True


# --- policies at random ------------------------------------------------------------------------------


class Maker:
    """Policies of one seed."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._random = random.Random(seed)

    def policies(self) -> list[Object]:
        """One to four, somewhat more often of the namespace with the servers."""
        return [self._policy(number) for number in range(self._random.randint(1, 4))]

    def _policy(self, number: int) -> Object:
        pick = self._random
        spec: Object = {"podSelector": self._pod_selector(), "ingress": self._rules("from")}
        types = pick.choice((None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        if types is not None:
            spec["policyTypes"] = types
        if "Egress" in (types or ()) or (types is None and pick.random() < 0.5):
            spec["egress"] = self._rules("to")
        if types == ["Egress"]:
            del spec["ingress"]
        metadata = {"name": f"random-{number}", "namespace": pick.choice(("mx-a", "mx-a", "mx-b"))}
        return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}

    def _rules(self, side: str) -> list[Object]:
        pick = self._random
        found = []
        for _ in range(pick.choice((0, 1, 1, 2))):
            rule: Object = {}
            if pick.random() < 0.8:
                rule[side] = [self._peer() for _ in range(pick.randint(1, 2))]
            if pick.random() < 0.6:
                rule["ports"] = [self._port() for _ in range(pick.randint(1, 2))]
            found.append(rule)
        return found

    def _peer(self) -> Object:
        kind = self._random.randrange(4)
        if kind == 0:
            return {"podSelector": self._pod_selector()}
        if kind == 1:
            return {"namespaceSelector": self._space_selector()}
        if kind == 2:
            return {"namespaceSelector": self._space_selector(), "podSelector": self._pod_selector()}
        pick, version = self._random, self._random.choice(self._site.families)
        cidr = self._site.pod_cidrs[pick.choice(NODES)][version]
        length = 32 if version == 4 else 128
        excepted = [f"{each[version]}/{length}" for each in self._site.pod_ips.values() if pick.random() < 0.3]
        block = ipaddress.ip_network(cidr)
        inside = [each for each in excepted if ipaddress.ip_network(each).network_address in block]
        return {"ipBlock": {"cidr": cidr, **({"except": inside} if inside else {})}}

    def _port(self) -> Object:
        pick = self._random
        return pick.choice(
            (
                {"port": 8080},
                {"port": 8081, "protocol": "UDP"},
                {"port": "http"},
                {"port": "dns", "protocol": "UDP"},
                {"port": 8000, "endPort": 8080, "protocol": "UDP"},
                {"port": 8081, "endPort": 9000},
                {"protocol": pick.choice(PROTOCOLS)},
            )
        )

    def _space_selector(self) -> Object:
        return self._random.choice(
            (
                {},
                {"matchLabels": {"team": "mx-a"}},
                {"matchLabels": {"kubernetes.io/metadata.name": "mx-b"}},
                {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["mx-a"]}]},
            )
        )

    def _pod_selector(self) -> Object:
        pick = self._random
        at = [str(each) for each in NODES if pick.random() < 0.6] or ["1"]
        return pick.choice(
            (
                {},
                {"matchLabels": {"app": "web"}},
                {"matchLabels": {"app": "client"}},
                {"matchExpressions": [{"key": "at", "operator": "In", "values": at}]},
                {"matchExpressions": [{"key": "at", "operator": "NotIn", "values": at}]},
                {"matchExpressions": [{"key": "app", "operator": "Exists"}, {"key": "x", "operator": "DoesNotExist"}]},
            )
        )


# --- the table ---------------------------------------------------------------------------------------


def table_of(site: Site, policies: Sequence[Object]) -> dict[Source, dict[Question, bool]]:
    """Source → question → whether it passes. A node's own pods are always reached from the node."""
    table: dict[Source, dict[Question, bool]] = {}
    for version in site.families:
        known = people(site, version)
        for source in site.pods():
            row = table.setdefault(source, {})
            for target in known.values():
                for protocol in PROTOCOLS:
                    for port in POD_PORTS:
                        key = f"{target.name} {protocol} {port} IPv{version}"
                        question = (key, protocol.lower(), target.ip, port)
                        row[question] = passes(policies, known[source.name], target, protocol, port)
        for at in NODES:
            row = table.setdefault(Source("node", at), {})
            for space in SPACES:
                name = f"{space[-1]}-{at}"
                row[(f"{name} IPv{version}", "tcp", known[name].ip, 8080)] = True
    return table


def check(site: Site, seed: int) -> None:
    """Apply the policies of a seed, compare every pair, and remove them."""
    policies = Maker(site, seed).policies()
    table = table_of(site, policies)
    site.cluster.apply("\n---\n".join(map(json.dumps, policies)))

    def wrong() -> list[str]:
        found = site.ask({source: list(row) for source, row in table.items()})
        return [
            f"{source} → {question[0]}: {found[source][question[0]]}, expected {'to pass' if expected else 'nothing'}"
            for source, row in table.items()
            for question, expected in row.items()
            if found[source][question[0]].startswith(question[0].split()[0]) != expected
        ]

    try:
        settle(site, wrong, f"the table of the policies {json.dumps(policies)}")
    finally:
        for space in SPACES:
            site.cluster.kubectl("delete", "networkpolicy", "--all", "-n", space)
