"""Whether this node can take a pod that was given to it. Pure.

The scheduler has checked all this, but with knowledge that may have been old, and pods may name
their node themselves. Reasons and messages are those of the API
(https://kubernetes.io/docs/concepts/scheduling-eviction/scheduler-perf-tuning/ does not list them; `OutOfcpu`,
`NodeAffinity`, `NodePorts` are what users see in a pod's status).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from tiphys.api.core.v1 import NodeSelectorRequirement, NodeSelectorTerm, Pod
from tiphys.kubelet.pod import all_containers, is_static
from tiphys.kubelet.qos import SYSTEM_CRITICAL_PRIORITY
from tiphys.kubelet.resources import is_extended_resource, pod_amounts
from tiphys.kubelet.status.pod_status import Verdict
from tiphys.machinery.quantity import Quantity

REJECTED: Final = "Pod was rejected: "
_ZERO: Final = Quantity.parse("0")
_WILDCARDS: Final = ("", "0.0.0.0", "::")

PortKey = tuple[str, str, int]  # protocol, address, port


def admit(
    pod: Pod, active: Sequence[Pod], allocatable: Mapping[str, str], labels: Mapping[str, str], node_name: str
) -> Verdict | None:
    """Why the node refuses `pod` beside the `active` ones; None when it takes it."""
    if pod.spec.os is not None and pod.spec.os.name not in ("", "linux"):
        return _refusal("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    if not is_static(pod) and not matches_node(pod, labels, node_name):
        return _refusal(
            "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
        )
    if _conflicting(pod, active):
        return _refusal(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        )
    if _critical(pod):
        return None  # room is made for these by evicting others, not by turning them away
    return _resources(pod, active, allocatable)


def _refusal(reason: str, message: str) -> Verdict:
    return Verdict(reason=reason, message=REJECTED + message)


def _critical(pod: Pod) -> bool:
    return is_static(pod) or (pod.spec.priority is not None and pod.spec.priority >= SYSTEM_CRITICAL_PRIORITY)


def lacking_resource(pod: Pod, active: Sequence[Pod], allocatable: Mapping[str, str]) -> str | None:
    """What the node has too little of for `pod` beside the `active` ones, in words; None when nothing."""
    verdict = _resources(pod, active, allocatable)
    return verdict.message.removeprefix(REJECTED) if verdict is not None else None


def _resources(pod: Pod, active: Sequence[Pod], allocatable: Mapping[str, str]) -> Verdict | None:
    limit = Quantity.parse(allocatable.get("pods", "110")).value()
    if len(active) + 1 > limit:
        return _lacking("pods", 1, len(active), limit)
    requested = pod_amounts(pod, "requests")
    used: dict[str, Quantity] = {}
    for other in active:
        for name, amount in pod_amounts(other, "requests").items():
            used[name] = used.get(name, _ZERO) + amount
    for name, amount in requested.items():
        if amount == _ZERO:
            continue
        if name not in allocatable and is_extended_resource(name):
            # Somebody put it into the node's status, or it belongs to the whole cluster: the scheduler counts it.
            continue
        capacity = Quantity.parse(allocatable.get(name, "0"))
        taken = used.get(name, _ZERO)
        if amount + taken > capacity:
            if name == "cpu":
                return _lacking(name, amount.milli_value(), taken.milli_value(), capacity.milli_value())
            return _lacking(name, amount.value(), taken.value(), capacity.value())
    return None


def _lacking(name: str, requested: int, used: int, capacity: int) -> Verdict:
    return _refusal(
        f"OutOf{name}",
        f"Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}",
    )


def _conflicting(pod: Pod, active: Iterable[Pod]) -> bool:
    wanted = list(_host_ports(pod))
    return bool(wanted) and any(_clash(a, b) for other in active for b in _host_ports(other) for a in wanted)


def _host_ports(pod: Pod) -> Iterator[PortKey]:
    for container in all_containers(pod):
        for port in container.ports:
            number = port.host_port or (port.container_port if pod.spec.host_network else 0)
            if number:
                yield port.protocol or "TCP", port.host_ip, number


def _clash(a: PortKey, b: PortKey) -> bool:
    return a[0] == b[0] and a[2] == b[2] and (a[1] == b[1] or a[1] in _WILDCARDS or b[1] in _WILDCARDS)


def matches_node(pod: Pod, labels: Mapping[str, str], node_name: str) -> bool:
    """Whether the node has the labels that nodeSelector and required node affinity ask for."""
    if any(labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    if required is None:
        return True
    return any(_term(term, labels, node_name) for term in required.node_selector_terms)


def _term(term: NodeSelectorTerm, labels: Mapping[str, str], node_name: str) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node_name}
    return all(_holds(item, labels) for item in term.match_expressions) and all(
        _holds(item, fields) for item in term.match_fields
    )


def _holds(item: NodeSelectorRequirement, values: Mapping[str, str]) -> bool:
    value = values.get(item.key)
    match item.operator:
        case "In":
            return value in item.values
        case "NotIn":
            return value not in item.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" if value is not None and value.lstrip("-").isdigit():
            bound = int(item.values[0])
            return int(value) > bound if item.operator == "Gt" else int(value) < bound
    return False
