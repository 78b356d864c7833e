"""Quality of service: the class of a pod and what follows from it for the kernel's OOM killer.

https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/ and
https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior
"""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import AnyContainer, is_sidecar
from tiphys.machinery.quantity import Quantity

GUARANTEED: Final = "Guaranteed"
BURSTABLE: Final = "Burstable"
BEST_EFFORT: Final = "BestEffort"

_COUNTED: Final = ("cpu", "memory")

GUARANTEED_OOM_SCORE: Final = -997
BEST_EFFORT_OOM_SCORE: Final = 1000
# Priority at and above which pods are system-node-critical (scheduling.k8s.io).
SYSTEM_CRITICAL_PRIORITY: Final = 2_000_000_000


def qos_class(pod: Pod) -> str:
    """The class of a pod, from the requests and limits of cpu and memory of all its containers."""
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    guaranteed = True
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        resources = container.resources
        limited = set()
        for name in _COUNTED:
            request = _positive(resources.requests.get(name) if resources else None)
            limit = _positive(resources.limits.get(name) if resources else None)
            if request is not None:
                requests[name] = requests.get(name, Quantity.parse("0")) + request
            if limit is not None:
                limited.add(name)
                limits[name] = limits.get(name, Quantity.parse("0")) + limit
        guaranteed = guaranteed and len(limited) == len(_COUNTED)
    if pod.spec.resources is not None and (pod.spec.resources.requests or pod.spec.resources.limits):
        return _class_of_pod_level(pod)
    if not requests and not limits:
        return BEST_EFFORT
    if guaranteed and all(requests.get(name) == limits.get(name) for name in _COUNTED):
        return GUARANTEED
    return BURSTABLE


def _class_of_pod_level(pod: Pod) -> str:
    """Pod-level resources decide alone (KEP-2837)."""
    resources = pod.spec.resources
    assert resources is not None
    for name in _COUNTED:
        limit = _positive(resources.limits.get(name))
        request = _positive(resources.requests.get(name)) or limit
        if limit is None or request != limit:
            return BURSTABLE
    return GUARANTEED


def oom_score_adj(pod: Pod, container: AnyContainer, memory_capacity: int) -> int:
    """`oom_score_adj` of a container's process; `memory_capacity` is the node's memory in bytes.

    Guaranteed and node-critical pods −997, best effort 1000, burstable in between: the more memory
    a container asked for, the later it is killed. A sidecar is never killed before the containers it serves.
    """
    if pod.spec.priority is not None and pod.spec.priority >= SYSTEM_CRITICAL_PRIORITY:
        return GUARANTEED_OOM_SCORE
    match qos_class(pod):
        case "Guaranteed":
            return GUARANTEED_OOM_SCORE
        case "BestEffort":
            return BEST_EFFORT_OOM_SCORE
    share = _share_of_pod_level(pod)
    score = _burstable_score(container, share, memory_capacity)
    if is_sidecar(container):
        score = min(score, *(_burstable_score(main, share, memory_capacity) for main in pod.spec.containers), 999)
    return score


def _share_of_pod_level(pod: Pod) -> int:
    """What each container has, in bytes, of the memory that the pod asked for and none of them did (KEP-2837)."""
    request = _positive(pod.spec.resources.requests.get("memory")) if pod.spec.resources else None
    if request is None:
        return 0
    together = [*pod.spec.containers, *(c for c in pod.spec.init_containers if is_sidecar(c))]
    left = request.value() - sum(_memory_request(container) for container in together)
    return max(0, left) // len(together)


def _memory_request(container: AnyContainer) -> int:
    request = _positive(container.resources.requests.get("memory")) if container.resources else None
    return request.value() if request else 0


def _burstable_score(container: AnyContainer, share: int, memory_capacity: int) -> int:
    score = 1000 - (1000 * (_memory_request(container) + share)) // memory_capacity
    # Stay clear of both ends: 2 lies above every guaranteed pod, 999 below every best-effort one.
    return 999 if score >= 1000 else max(score, 1000 + GUARANTEED_OOM_SCORE)


def _positive(text: str | None) -> Quantity | None:
    if text is None:
        return None
    quantity = Quantity.parse(text)
    return quantity if quantity > Quantity.parse("0") else None
