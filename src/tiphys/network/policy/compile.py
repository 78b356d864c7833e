"""API objects → the values of `model`: policies with address and port ranges worked out, pods. Pure.

https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.api.networking.v1 import IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.selectors import LabelSelector
from tiphys.network.policy.model import NamedPort, PodFacts, Policy, PortRange, Range, Rule, Selection

EVERYTHING: Final = LabelSelector()
FINISHED: Final = ("Succeeded", "Failed")


def compile_policy(policy: NetworkPolicy) -> Policy:
    """What a policy says. Raises ValueError for a selector or address the API server would have refused."""
    spec, namespace = policy.spec, policy.metadata.namespace
    types = spec.policy_types or (("Ingress", "Egress") if spec.egress else ("Ingress",))
    ingress = tuple(_rule(namespace, rule.from_, rule.ports) for rule in spec.ingress)
    egress = tuple(_rule(namespace, rule.to, rule.ports) for rule in spec.egress)
    subject = EVERYTHING if spec.pod_selector is None else LabelSelector.of_dict(spec.pod_selector)
    return Policy(
        name=ObjectName(namespace, policy.metadata.name),
        subject=Selection(subject, namespace),
        ingress=ingress if "Ingress" in types else None,
        egress=egress if "Egress" in types else None,
    )


def pod_facts(pod: Pod, node: str, ips: tuple[str, ...] = ()) -> PodFacts | None:
    """What policies look at in a pod; None for one without an address of its own.

    `ips`: its addresses where they are known better than from its status, which comes late.
    """
    if pod.spec.host_network or pod.status.phase in FINISHED:
        return None
    addresses = ips or tuple(each.ip for each in pod.status.pod_ips if each.ip)
    if not addresses:
        return None
    # A native sidecar's ports count as a container's do; names are unique in a pod.
    containers = (*pod.spec.containers, *(each for each in pod.spec.init_containers if each.restart_policy == "Always"))
    return PodFacts(
        name=ObjectName(pod.metadata.namespace, pod.metadata.name),
        labels=pod.metadata.labels,
        ips=addresses,
        ports=tuple(
            (NamedPort(port.name, (port.protocol or "TCP").lower()), port.container_port)
            for container in containers
            for port in container.ports
            if port.name
        ),
        is_local=pod.spec.node_name == node,
    )


def _rule(namespace: str, peers: Sequence[NetworkPolicyPeer], ports: Sequence[NetworkPolicyPort]) -> Rule:
    blocks = [peer.ip_block for peer in peers if peer.ip_block is not None]
    numbers, names = [], []
    for port in ports:
        protocol = (port.protocol or "TCP").lower()
        if isinstance(port.port, str):
            names.append(NamedPort(port.port, protocol))
        else:
            first = port.port or 0
            numbers.append(PortRange(protocol, first, port.end_port or first))
    return Rule(
        selections=tuple(dict.fromkeys(_selection(namespace, peer) for peer in peers if peer.ip_block is None)),
        ranges=block_ranges(blocks),
        any_peer=not peers,
        ports=tuple(_merge_ports(numbers)),
        named_ports=tuple(dict.fromkeys(names)),
        any_port=not ports,
    )


def _selection(namespace: str, peer: NetworkPolicyPeer) -> Selection:
    pods = EVERYTHING if peer.pod_selector is None else LabelSelector.of_dict(peer.pod_selector)
    if peer.namespace_selector is None:
        return Selection(pods, namespace)
    return Selection(pods, namespaces=LabelSelector.of_dict(peer.namespace_selector))


def block_ranges(blocks: Iterable[IPBlock]) -> tuple[Range, ...]:
    """The addresses of all blocks, each without its own exceptions, as ranges in order that do not touch."""
    ranges: list[Range] = []
    for block in blocks:
        network = ipaddress.ip_network(block.cidr, strict=False)
        at, last = int(network.network_address), int(network.broadcast_address)
        holes = sorted(ipaddress.ip_network(each, strict=False) for each in block.except_)
        for hole in holes:
            first = int(hole.network_address)
            if first > at:
                ranges.append(Range(network.version, at, min(first - 1, last)))
            at = max(at, int(hole.broadcast_address) + 1)
        if at <= last:
            ranges.append(Range(network.version, at, last))
    merged: list[Range] = []
    for each in sorted(ranges):
        if merged and merged[-1].version == each.version and each.first <= merged[-1].last + 1:
            merged[-1] = merged[-1]._replace(last=max(merged[-1].last, each.last))
        else:
            merged.append(each)
    return tuple(merged)


def _merge_ports(ports: Iterable[PortRange]) -> list[PortRange]:
    """In order, without overlaps; a protocol with all its ports needs no other entry."""
    merged: list[PortRange] = []
    for each in sorted(ports):
        last = merged[-1] if merged else None
        if last is not None and last.protocol == each.protocol and (last.first == 0 or each.first <= last.last + 1):
            if last.first:
                merged[-1] = last._replace(last=max(last.last, each.last))
        else:
            merged.append(each)
    return merged
