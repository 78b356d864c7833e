"""What pods, services and claims use of each quota. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tiphys.api.core.v1 import (
    Container,
    PersistentVolumeClaim,
    Pod,
    PodAffinityTerm,
    ResourceQuota,
    ScopedResourceSelectorRequirement,
    Service,
)
from tiphys.controllers.common.pods import is_finished
from tiphys.machinery.quantity import Quantity, parse_cached

Usage = dict[str, Quantity]

ZERO: Final = Quantity.of(0)
ONE: Final = Quantity.of(1)
_COMPUTE: Final = ("cpu", "memory", "ephemeral-storage")


def add(total: Usage, more: Mapping[str, Quantity]) -> None:
    """Add `more` to `total` in place."""
    for name, amount in more.items():
        total[name] = total.get(name, ZERO) + amount


def of_pod(pod: Pod) -> Usage:
    """A pod's use: itself, its requests and its limits. A finished pod uses only its object."""
    used: Usage = {"count/pods": ONE}
    if is_finished(pod):
        return used
    used["pods"] = ONE
    for kind, amounts in (("requests", _effective(pod, "requests")), ("limits", _effective(pod, "limits"))):
        for name, amount in amounts.items():
            if kind == "requests" and (name in _COMPUTE or name.startswith("hugepages-")):
                used[name] = amount
            used[f"{kind}.{name}"] = amount
    return used


def _effective(pod: Pod, kind: str) -> Usage:
    """What all containers need together, or any init container beside the sidecars before it, if that is more."""
    if pod.spec.resources is not None and getattr(pod.spec.resources, kind):
        total = _amounts(getattr(pod.spec.resources, kind))
    else:
        total = {}
        for container in pod.spec.containers:
            add(total, _of_container(container, kind))
        sidecars: Usage = {}
        peak: Usage = {}
        for container in pod.spec.init_containers:
            mine = _of_container(container, kind)
            together = dict(sidecars)
            add(together, mine)
            if container.restart_policy == "Always":
                sidecars = together
            peak = {name: max(peak.get(name, ZERO), together.get(name, ZERO)) for name in {*peak, *together}}
        add(total, sidecars)
        total = {name: max(total.get(name, ZERO), peak.get(name, ZERO)) for name in {*total, *peak}}
    if pod.spec.overhead:
        for name, amount in _amounts(pod.spec.overhead).items():
            if kind == "requests" or name in total:
                add(total, {name: amount})
    return total


def _of_container(container: Container, kind: str) -> Usage:
    return _amounts(getattr(container.resources, kind)) if container.resources is not None else {}


def _amounts(values: Mapping[str, str]) -> Usage:
    return {name: parse_cached(value) for name, value in values.items()}


def of_service(service: Service) -> Usage:
    """A service's use: itself, its load balancer, its node ports."""
    used = {"services": ONE, "count/services": ONE}
    ports = len(service.spec.ports)
    if service.spec.type == "NodePort":
        used["services.nodeports"] = Quantity.of(ports)
    elif service.spec.type == "LoadBalancer":
        used["services.loadbalancers"] = ONE
        if service.spec.allocate_load_balancer_node_ports is not False:
            used["services.nodeports"] = Quantity.of(ports)
        else:
            used["services.nodeports"] = Quantity.of(sum(bool(port.node_port) for port in service.spec.ports))
    return used


def of_claim(claim: PersistentVolumeClaim) -> Usage:
    """A claim's use: itself and its size, also of its storage class."""
    used = {"persistentvolumeclaims": ONE, "count/persistentvolumeclaims": ONE}
    requests = claim.spec.resources.requests if claim.spec.resources is not None else {}
    size = parse_cached(requests["storage"]) if "storage" in requests else None
    if size is not None:
        used["requests.storage"] = size
    if claim.spec.storage_class_name:
        prefix = f"{claim.spec.storage_class_name}.storageclass.storage.k8s.io"
        used[f"{prefix}/persistentvolumeclaims"] = ONE
        if size is not None:
            used[f"{prefix}/requests.storage"] = size
    return used


def in_scope(quota: ResourceQuota, pod: Pod) -> bool:
    """Whether all of the quota's scopes take the pod in."""
    plain = [ScopedResourceSelectorRequirement(scope_name=name, operator="Exists") for name in quota.spec.scopes]
    selected = quota.spec.scope_selector.match_expressions if quota.spec.scope_selector is not None else ()
    return all(_scope(one, pod) for one in (*plain, *selected))


def has_scopes(quota: ResourceQuota) -> bool:
    """Whether the quota is about some pods only."""
    return bool(quota.spec.scopes or quota.spec.scope_selector is not None)


def _scope(requirement: ScopedResourceSelectorRequirement, pod: Pod) -> bool:
    match requirement.scope_name:
        case "Terminating":
            return pod.spec.active_deadline_seconds is not None
        case "NotTerminating":
            return pod.spec.active_deadline_seconds is None
        case "BestEffort":
            return _is_best_effort(pod)
        case "NotBestEffort":
            return not _is_best_effort(pod)
        case "PriorityClass":
            return _matches(requirement, pod.spec.priority_class_name)
        case "CrossNamespacePodAffinity":
            return _crosses_namespaces(pod)
    return False


def _matches(requirement: ScopedResourceSelectorRequirement, value: str) -> bool:
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "DoesNotExist":
            return not value
    return bool(value)


def _is_best_effort(pod: Pod) -> bool:
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    return not any(
        container.resources is not None and (container.resources.requests or container.resources.limits)
        for container in containers
    )


def _crosses_namespaces(pod: Pod) -> bool:
    affinity = pod.spec.affinity
    if affinity is None:
        return False
    found: list[PodAffinityTerm] = []
    for part in (affinity.pod_affinity, affinity.pod_anti_affinity):
        if part is not None:
            found += part.required_during_scheduling_ignored_during_execution
            found += [
                weighted.pod_affinity_term for weighted in part.preferred_during_scheduling_ignored_during_execution
            ]
    return any(term.namespaces or term.namespace_selector is not None for term in found)


def total(objects: Iterable[Usage]) -> Usage:
    """The sum."""
    summed: Usage = {}
    for used in objects:
        add(summed, used)
    return summed
