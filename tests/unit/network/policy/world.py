"""Builders of policies and pods, a reader of the rules we make, and what the documentation says of a packet.

`oracle` is written from the documentation alone and shares nothing with the code it is to judge.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tiphys.api.core.v1 import Container, ContainerPort, Pod, PodIP, PodSpec, PodStatus
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.networking.v1 import NetworkPolicy
from tiphys.network.policy import layout
from tiphys.network.policy.compile import compile_policy, pod_facts
from tiphys.network.policy.state import Content, PolicyState

NODE = "n1"


def policy(namespace: str, name: str, **spec: Any) -> NetworkPolicy:
    """A policy from its spec in the API's own spelling (`pod_selector`, `policy_types`, ingress, egress)."""
    values = {"podSelector": spec.get("pod_selector", {}), "ingress": spec.get("ingress", [])}
    values |= {"egress": spec.get("egress", []), "policyTypes": spec.get("policy_types", [])}
    return msgspec.convert({"metadata": {"namespace": namespace, "name": name}, "spec": values}, NetworkPolicy)


def pod(
    namespace: str,
    name: str,
    ip: str,
    labels: Mapping[str, str] | None = None,
    *,
    node: str = NODE,
    ports: Mapping[str, tuple[str, int]] | None = None,
    phase: str = "Running",
    host_network: bool = False,
) -> Pod:
    """A pod with named ports: name → (protocol, number)."""
    made = tuple(ContainerPort(name=n, protocol=p, container_port=number) for n, (p, number) in (ports or {}).items())
    return Pod(
        metadata=ObjectMeta(namespace=namespace, name=name, labels=dict(labels or {})),
        spec=PodSpec(node_name=node, host_network=host_network or None, containers=(Container(name="c", ports=made),)),
        status=PodStatus(phase=phase, pod_ip=ip, pod_ips=(PodIP(ip=ip),)),
    )


def state_of(
    policies: Iterable[NetworkPolicy], pods: Iterable[Pod], namespaces: Mapping[str, Mapping[str, str]]
) -> PolicyState:
    state = PolicyState()
    for name, labels in namespaces.items():
        state.put_namespace(name, labels)
    for each in pods:
        if (facts := pod_facts(each, NODE)) is not None:
            state.put_pod(facts)
    for one in policies:
        state.put_policy(compile_policy(one))
    return state


@dataclass(frozen=True)
class Packet:
    source: str
    destination: str
    protocol: str  # TCP, UDP, SCTP
    port: int


# --- what our rules do ---------------------------------------------------------------------


def passes(content: Content, packet: Packet) -> bool:
    """What the kernel would do with the first packet of a connection that is forwarded."""
    if f"{packet.source} . {packet.destination}" in content.sets["self4"]:
        return True
    for direction, address in (("egress", packet.source), ("ingress", packet.destination)):
        verdict = content.maps[f"{direction}4"].get(address)
        if verdict is not None and not _accepted(content, verdict.removeprefix("goto "), packet):
            return False
    return True


def _accepted(content: Content, chain: str, packet: Packet) -> bool:
    for rule in content.chains[chain]:
        if rule == "drop":
            return False
        if rule.startswith("jump "):
            if _accepted(content, rule.removeprefix("jump "), packet):
                return True
        elif _matches(content, rule.removesuffix("accept").strip(), packet):
            return True
    return False


_MATCH = re.compile(
    r"(ip6? [sd]addr \. (?:tcp|udp|sctp) dport|ip6? [sd]addr|meta l4proto|(?:tcp|udp|sctp) dport) (@\S+|\{[^}]*\}|\S+)"
)


def _matches(content: Content, text: str, packet: Packet) -> bool:
    values = {"saddr": packet.source, "daddr": packet.destination}
    consumed = _MATCH.sub("", text).strip()
    assert consumed == "", text
    for what, against in _MATCH.findall(text):
        words = what.split()
        if words[0] == "meta":
            held = packet.protocol.lower() == against
        elif len(words) == 5:
            value = f"{values[words[1]]} . {packet.port}"
            held = packet.protocol.lower() == words[3] and value in content.sets[against[1:]]
        elif words[-1] == "dport":
            held = packet.protocol.lower() == words[0] and _inside(packet.port, against)
        elif words[0] == "ip6":
            held = False
        elif against.startswith("@"):
            held = values[words[1]] in content.sets[against[1:]]
        else:
            held = _inside(int(ipaddress.ip_address(values[words[1]])), against)
        if not held:
            return False
    return True


def _inside(value: int, text: str) -> bool:
    def number(word: str) -> int:
        return int(word) if word.isdigit() else int(ipaddress.ip_address(word))

    bounds = [part.strip().split("-") for part in text.strip("{} ").split(",")]
    return any(number(each[0]) <= value <= number(each[-1]) for each in bounds)


# --- what the documentation says -------------------------------------------------------------


def oracle(
    policies: Iterable[NetworkPolicy], pods: Iterable[Pod], namespaces: Mapping[str, Mapping[str, str]], packet: Packet
) -> bool:
    """Whether a packet forwarded by this node is let through; only pods of this node are judged here."""
    everyone = [p for p in pods if p.status.phase not in ("Succeeded", "Failed") and not p.spec.host_network]
    by_ip = {p.status.pod_ip: p for p in everyone}
    if packet.source == packet.destination:
        return True
    for side, own, other in (
        ("Egress", packet.source, packet.destination),
        ("Ingress", packet.destination, packet.source),
    ):
        judged = by_ip.get(own)
        if judged is None or judged.spec.node_name != NODE:
            continue
        about = [p for p in policies if side in _types(p) and _selects(p, judged)]
        if about and not any(_lets(p, side, by_ip, namespaces, packet, other) for p in about):
            return False
    return True


def _types(one: NetworkPolicy) -> tuple[str, ...]:
    return one.spec.policy_types or (("Ingress", "Egress") if one.spec.egress else ("Ingress",))


def _selects(one: NetworkPolicy, judged: Pod) -> bool:
    if one.metadata.namespace != judged.metadata.namespace:
        return False
    return _labels_match(one.spec.pod_selector, judged.metadata.labels)


def _lets(
    one: NetworkPolicy,
    side: str,
    by_ip: Mapping[str, Pod],
    namespaces: Mapping[str, Mapping[str, str]],
    packet: Packet,
    other: str,
) -> bool:
    rules = one.spec.ingress if side == "Ingress" else one.spec.egress
    target = by_ip.get(packet.destination)
    for rule in rules:
        peers = rule.from_ if side == "Ingress" else rule.to  # type: ignore[union-attr]
        if peers and not any(_is_peer(one, peer, other, by_ip, namespaces) for peer in peers):
            continue
        if not rule.ports or any(_is_port(port, packet, target) for port in rule.ports):
            return True
    return False


def _is_peer(
    one: NetworkPolicy, peer: Any, address: str, by_ip: Mapping[str, Pod], namespaces: Mapping[str, Mapping[str, str]]
) -> bool:
    if peer.ip_block is not None:
        ip = ipaddress.ip_address(address)
        if ip not in ipaddress.ip_network(peer.ip_block.cidr):
            return False
        return not any(ip in ipaddress.ip_network(hole) for hole in peer.ip_block.except_)
    found = by_ip.get(address)
    if found is None:
        return False
    if peer.namespace_selector is None:
        if found.metadata.namespace != one.metadata.namespace:
            return False
    elif not _labels_match(peer.namespace_selector, namespaces.get(found.metadata.namespace, {})):
        return False
    return peer.pod_selector is None or _labels_match(peer.pod_selector, found.metadata.labels)


def _is_port(port: Any, packet: Packet, target: Pod | None) -> bool:
    if (port.protocol or "TCP") != packet.protocol:
        return False
    if port.port is None:
        return True
    if isinstance(port.port, int):
        return port.port <= packet.port <= (port.end_port or port.port)
    numbers = [
        each.container_port
        for container in (target.spec.containers if target is not None else ())
        for each in container.ports
        if each.name == port.port and (each.protocol or "TCP") == packet.protocol
    ]
    return packet.port in numbers


def _labels_match(selector: Any, labels: Mapping[str, str]) -> bool:
    if selector is None:
        return True
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    for each in selector.match_expressions:
        value = labels.get(each.key)
        held = {
            "In": value is not None and value in each.values,
            "NotIn": value is None or value not in each.values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[each.operator]
        if not held:
            return False
    return True


def render_checked(state: PolicyState) -> Content:
    """What was last written, after writing."""
    state.script()
    content = state.written()
    for verdicts in content.maps.values():
        for verdict in verdicts.values():
            assert verdict.removeprefix("goto ") in content.chains
    assert layout.TABLE
    return content
