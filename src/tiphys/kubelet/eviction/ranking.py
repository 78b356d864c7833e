"""The order in which pods are evicted.

https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#pod-selection-for-kubelet-eviction:
first those that use more than they asked for, then by priority, then by how much more they use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import is_static
from tiphys.kubelet.qos import SYSTEM_CRITICAL_PRIORITY
from tiphys.kubelet.resources import pod_amounts, whole


def rank(pods: Iterable[Pod], usage: Callable[[Pod], int], resource: str) -> list[Pod]:
    """Pods that may be evicted, the first to go first; `usage` is in bytes of `resource`."""

    def key(pod: Pod) -> tuple[bool, int, int]:
        requested = whole(pod_amounts(pod, "requests"), resource)
        used = usage(pod)
        return used <= requested, pod.spec.priority or 0, requested - used

    return sorted((pod for pod in pods if not critical(pod)), key=key)


def critical(pod: Pod) -> bool:
    """Pods the node cannot do without: static ones and those of the system priority classes."""
    return is_static(pod) or (pod.spec.priority or 0) >= SYSTEM_CRITICAL_PRIORITY
