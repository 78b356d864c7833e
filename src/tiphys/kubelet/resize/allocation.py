"""What the node has granted a pod: the cpu and memory of its containers and, where it says so, of itself.

Between a resize and its acceptance the pod on the node is not the pod of the API. Everything on the node works with
the pod as it was granted (`apply`); the API's status is the memory of it over a restart (`recovered`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec.structs import replace

from tiphys.api.core.v1 import Container, ContainerStatus, Pod, ResourceRequirements
from tiphys.kubelet.pod import AnyContainer
from tiphys.kubelet.resources import bounds
from tiphys.machinery.quantity import Quantity

RESIZABLE: Final = ("cpu", "memory")
NOTHING: Final = ResourceRequirements()

C = TypeVar("C", bound=Container)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Resources by container, and those of the pod itself; None where it has none of its own."""

    containers: Mapping[str, ResourceRequirements]
    pod: ResourceRequirements | None = None


def allocation_of(pod: Pod) -> Allocation:
    """What the pod's spec says."""
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    return Allocation(containers={c.name: c.resources or NOTHING for c in containers}, pod=pod.spec.resources)


def recovered(pod: Pod) -> Allocation:
    """What a kubelet before this one had put in force, from the status it wrote; the spec where it wrote nothing."""
    asked = allocation_of(pod)
    statuses = {status.name: status for status in (*pod.status.init_container_statuses, *pod.status.container_statuses)}
    containers = {name: _in_force(statuses.get(name)) or resources for name, resources in asked.containers.items()}
    of_pod = asked.pod
    if of_pod is not None and pod.status.resources is not None:
        of_pod = pod.status.resources
    return Allocation(containers=containers, pod=of_pod)


def _in_force(status: ContainerStatus | None) -> ResourceRequirements | None:
    return status.resources if status is not None and status.container_id else None


def apply(pod: Pod, allocation: Allocation) -> Pod:
    """The pod with the resources it was granted; `pod` itself where those are what it asks for."""
    if not differs(pod, allocation):
        return pod
    return replace(
        pod,
        spec=replace(
            pod.spec,
            resources=_granted(pod.spec.resources, allocation.pod) if pod.spec.resources else None,
            init_containers=tuple(_with(c, allocation) for c in pod.spec.init_containers),
            containers=tuple(_with(c, allocation) for c in pod.spec.containers),
        ),
    )


def _with(container: C, allocation: Allocation) -> C:
    granted = allocation.containers.get(container.name)
    if granted is None or same(container.resources, granted):
        return container
    return replace(container, resources=_granted(container.resources, granted))


def _granted(asked: ResourceRequirements | None, granted: ResourceRequirements | None) -> ResourceRequirements:
    """`asked` with cpu and memory as granted: nothing else can differ."""
    asked, granted = asked or NOTHING, granted or NOTHING
    return replace(
        asked,
        requests=_compute_of(asked.requests, granted.requests),
        limits=_compute_of(asked.limits, granted.limits),
    )


def _compute_of(asked: Mapping[str, str], granted: Mapping[str, str]) -> dict[str, str]:
    rest = {name: amount for name, amount in asked.items() if name not in RESIZABLE}
    return rest | {name: granted[name] for name in RESIZABLE if name in granted}


def bounded(pod: Pod, container: AnyContainer) -> ResourceRequirements:
    """A container's resources with the limits that hold for it, its own or the pod's."""
    resources = container.resources or NOTHING
    limits = bounds(pod, container)
    if limits.keys() <= resources.limits.keys():
        return resources
    return replace(resources, limits=dict(resources.limits) | {name: str(amount) for name, amount in limits.items()})


def differs(pod: Pod, allocation: Allocation) -> bool:
    """Whether the pod asks for other resources than it was granted."""
    asked = allocation_of(pod)
    if not same(asked.pod, allocation.pod):
        return True
    return any(
        not same(resources, allocation.containers.get(name, resources)) for name, resources in asked.containers.items()
    )


def same(a: ResourceRequirements | None, b: ResourceRequirements | None) -> bool:
    """Whether cpu and memory are the same amounts, however they are written."""
    return not changed(a, b)


def changed(a: ResourceRequirements | None, b: ResourceRequirements | None) -> frozenset[str]:
    """Which of cpu and memory differ, in request or limit."""
    a, b = a or NOTHING, b or NOTHING
    if a is b:
        return frozenset()
    return frozenset(
        name
        for name in RESIZABLE
        if not (_equal(a.requests.get(name), b.requests.get(name)) and _equal(a.limits.get(name), b.limits.get(name)))
    )


def _equal(a: str | None, b: str | None) -> bool:
    if a == b:
        return True
    return a is not None and b is not None and Quantity.parse(a) == Quantity.parse(b)
