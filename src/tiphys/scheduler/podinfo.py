"""What scheduling needs to know of a pod, worked out once when the pod is seen.

Amounts are exact integers in floats (all below 2**53): CPU in millicores, everything else in its unit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from tiphys.api.core.v1 import Container, Pod, PodAffinityTerm, ResourceRequirements, WeightedPodAffinityTerm
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.quantity import parse_cached
from tiphys.machinery.selectors import LabelSelector, Requirement
from tiphys.scheduler.volumes import claim_names

CPU: Final = "cpu"
MEMORY: Final = "memory"
PODS: Final = "pods"
# What a container that asks for nothing is scored as, so that such pods spread as well.
NONZERO_CPU: Final = 100.0  # millicores
NONZERO_MEMORY: Final = 200.0 * 1024 * 1024  # bytes

Amounts = dict[str, float]


class HostPort(NamedTuple):
    """A port of the node; an empty `ip` is every address."""

    ip: str
    protocol: str
    port: int


class AffinityTerm(NamedTuple):
    """A pod (anti-)affinity term: which pods it selects, and over which topology. `weight` 0: required.

    `namespaces` are given by name; `namespace_selector` adds those it matches (None: none).
    """

    topology_key: str
    selector: LabelSelector
    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None
    weight: int = 0

    def matches(self, namespace: str, namespace_labels: Mapping[str, str], labels: Mapping[str, str]) -> bool:
        """Whether the term selects a pod with these labels in this namespace."""
        in_namespace = namespace in self.namespaces or (
            self.namespace_selector is not None and self.namespace_selector.matches(namespace_labels)
        )
        return in_namespace and self.selector.matches(labels)


class PodInfo:
    """A pod as the scheduler sees it. Equal specs give equal `node_key`s, so that what follows from them is shared."""

    __slots__ = (
        "affinity",
        "anti_affinity",
        "claims",
        "class_key",
        "key",
        "labels",
        "namespace",
        "node_key",
        "nonzero",
        "pod",
        "ports",
        "preferred_affinity",
        "preferred_anti_affinity",
        "priority",
        "request_key",
        "requests",
        "scored_requests",
        "tolerations_key",
        "uid",
    )

    def __init__(self, pod: Pod) -> None:
        spec, metadata = pod.spec, pod.metadata
        self.pod = pod
        self.uid = metadata.uid
        self.namespace = metadata.namespace
        self.key = ObjectName(metadata.namespace, metadata.name)
        self.labels = metadata.labels
        self.priority = spec.priority or 0
        self.requests = pod_requests(pod)
        self.nonzero = nonzero_requests(pod, self.requests)
        # With these instead of the real ones where a resource is only scored.
        self.scored_requests = {**self.requests, CPU: self.nonzero[0], MEMORY: self.nonzero[1]}
        self.request_key = (*self.requests.items(), self.nonzero)  # equal for pods that ask for the same
        self.ports = host_ports(pod)
        self.claims = tuple(ObjectName(metadata.namespace, name) for name, _ in claim_names(pod))
        self.class_key = (
            metadata.namespace,
            tuple(sorted(metadata.labels.items())),
            metadata.deletion_timestamp is not None,
        )
        affinity = spec.affinity
        node_affinity = affinity.node_affinity if affinity else None
        chooses = bool(spec.node_selector or node_affinity)
        self.node_key = msgspec.json.encode((spec.node_selector, node_affinity)) if chooses else b""
        self.tolerations_key = msgspec.json.encode(spec.tolerations) if spec.tolerations else b""
        self.affinity: tuple[AffinityTerm, ...] = ()
        self.preferred_affinity: tuple[AffinityTerm, ...] = ()
        self.anti_affinity: tuple[AffinityTerm, ...] = ()
        self.preferred_anti_affinity: tuple[AffinityTerm, ...] = ()
        if affinity is not None:
            if (both := affinity.pod_affinity) is not None:
                self.affinity = _required(pod, both.required_during_scheduling_ignored_during_execution)
                self.preferred_affinity = _preferred(pod, both.preferred_during_scheduling_ignored_during_execution)
            if (anti := affinity.pod_anti_affinity) is not None:
                self.anti_affinity = _required(pod, anti.required_during_scheduling_ignored_during_execution)
                self.preferred_anti_affinity = _preferred(
                    pod, anti.preferred_during_scheduling_ignored_during_execution
                )

    @property
    def has_affinity_terms(self) -> bool:
        return bool(self.affinity or self.preferred_affinity or self.anti_affinity or self.preferred_anti_affinity)

    @property
    def fit_key(self) -> Hashable:
        """Equal for pods that fit on the same nodes as far as a node alone decides."""
        return self.request_key, self.ports, self.node_key, self.tolerations_key, self.node_name

    @property
    def terminating(self) -> bool:
        return self.class_key[2]

    @property
    def node_name(self) -> str:
        return self.pod.spec.node_name

    def __repr__(self) -> str:
        return f"PodInfo({self.key})"


def amounts(quantities: Mapping[str, str]) -> Amounts:
    """Parse a resource list: CPU in millicores, the rest in units, each rounded up."""
    return {
        name: float(parse_cached(text).milli_value() if name == CPU else parse_cached(text).value())
        for name, text in quantities.items()
    }


def pod_requests(pod: Pod) -> Amounts:
    """What a pod takes of a node: the larger of its running containers' sum and its start-up's peak, plus overhead.

    Containers that are init containers with restartPolicy Always run on beside the others. Requests of the pod
    itself replace the sum for the resources they name. Source: "Resource Management for Pods and Containers". While a
    resize is on its way the most of what is asked for, granted and in force counts ("Resize CPU and Memory Resources
    assigned to Containers"); one that can never be granted asks for nothing.
    """
    spec, status = pod.spec, pod.status
    statuses = {one.name: one for one in (*status.init_container_statuses, *status.container_statuses)}
    refused = _resize_refused(pod)

    def asked(container: Container) -> Amounts:
        wanted, known = container.resources, statuses.get(container.name)
        requests = wanted.requests if wanted else {}
        if known is None:
            return amounts(requests)
        return _most(requests, known.allocated_resources, known.resources, refused=refused)

    total: Amounts = {}
    for container in spec.containers:
        _add(total, asked(container))
    if spec.init_containers:
        total = _with_init_containers(total, spec.init_containers, asked)
    if spec.resources is not None and spec.resources.requests:
        level = _most(spec.resources.requests, status.allocated_resources, status.resources, refused=refused)
        total |= {name: amount for name, amount in level.items() if _pod_level(name)}
    for name, amount in amounts(spec.overhead).items():
        total[name] = total.get(name, 0.0) + amount
    return {name: amount for name, amount in total.items() if amount}


def nonzero_requests(pod: Pod, requests: Amounts) -> tuple[float, float]:
    """CPU and memory for scoring: each container without a request counts as a small one."""
    missing_cpu = missing_memory = 0
    for container in pod.spec.containers:
        asked = container.resources.requests if container.resources else {}
        missing_cpu += CPU not in asked
        missing_memory += MEMORY not in asked
    pod_level = pod.spec.resources.requests if pod.spec.resources else {}
    cpu, memory = requests.get(CPU, 0.0), requests.get(MEMORY, 0.0)
    if missing_cpu and CPU not in pod_level:
        cpu += missing_cpu * NONZERO_CPU
    if missing_memory and MEMORY not in pod_level:
        memory += missing_memory * NONZERO_MEMORY
    return cpu, memory


def host_ports(pod: Pod) -> tuple[HostPort, ...]:
    """The ports of the node a pod's containers bind."""
    sidecars = [container for container in pod.spec.init_containers if container.restart_policy == "Always"]
    return tuple(
        HostPort("" if port.host_ip in ("0.0.0.0", "::") else port.host_ip, port.protocol or "TCP", port.host_port)
        for container in (*pod.spec.containers, *sidecars)
        for port in container.ports
        if port.host_port
    )


def _resize_refused(pod: Pod) -> bool:
    """Whether the node has said that it will never grant what the pod asks for now."""
    return any(one.type == "PodResizePending" and one.reason == "Infeasible" for one in pod.status.conditions)


def _most(
    wanted: Mapping[str, str], granted: Mapping[str, str], in_force: ResourceRequirements | None, *, refused: bool
) -> Amounts:
    running = in_force.requests if in_force is not None else {}
    if (wanted == granted or not granted) and (wanted == running or not running):
        return amounts(wanted)  # nearly always
    most: Amounts = {}
    for quantities in (granted, running) if refused else (wanted, granted, running):
        for name, amount in amounts(quantities).items():
            most[name] = max(most.get(name, 0.0), amount)
    return most


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0.0) + amount


def _with_init_containers(
    running: Amounts, init_containers: Iterable[Container], requests: Callable[[Container], Amounts]
) -> Amounts:
    """At its peak an init container runs beside all sidecars started before it."""
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in init_containers:
        beside = dict(sidecars)
        _add(beside, requests(container))
        if container.restart_policy == "Always":
            sidecars = beside
        for name, amount in beside.items():
            peak[name] = max(peak.get(name, 0.0), amount)
    names = {*running, *sidecars, *peak}
    return {name: max(running.get(name, 0.0) + sidecars.get(name, 0.0), peak.get(name, 0.0)) for name in names}


def _pod_level(name: str) -> bool:
    return name in (CPU, MEMORY) or name.startswith("hugepages-")


def _required(pod: Pod, terms: Iterable[PodAffinityTerm]) -> tuple[AffinityTerm, ...]:
    return tuple(affinity_term(pod, term, 0) for term in terms)


def _preferred(pod: Pod, terms: Iterable[WeightedPodAffinityTerm]) -> tuple[AffinityTerm, ...]:
    return tuple(affinity_term(pod, term.pod_affinity_term, term.weight) for term in terms)


def affinity_term(pod: Pod, term: PodAffinityTerm, weight: int) -> AffinityTerm:
    """The term as it applies to `pod`: without namespaces it means the pod's own."""
    selector = LabelSelector.of_dict(term.label_selector)
    keys = tuple(
        Requirement(key, operator, (pod.metadata.labels[key],))
        for operator, names in (("in", term.match_label_keys), ("notin", term.mismatch_label_keys))
        for key in names
        if key in pod.metadata.labels
    )
    if keys and not selector.nothing:
        selector = LabelSelector((*selector.requirements, *keys))
    namespaces = frozenset(term.namespaces)
    if not namespaces and term.namespace_selector is None:
        namespaces = frozenset((pod.metadata.namespace,))
    namespace_selector = None if term.namespace_selector is None else LabelSelector.of_dict(term.namespace_selector)
    return AffinityTerm(term.topology_key, selector, namespaces, namespace_selector, weight)
