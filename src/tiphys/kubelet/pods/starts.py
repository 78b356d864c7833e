"""Counts how pods and their containers start, and what failed: `kubelet_started_*`.

A start counts when it is begun with, as upstream; what it may fail with are the reasons a container waits for.
https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.pod import container_type, is_static

PODS: Final = REGISTRY.counter("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started")
FAILED_PODS: Final = REGISTRY.counter(
    "kubelet_started_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods"
)
CONTAINERS: Final = REGISTRY.counter(
    "kubelet_started_containers_total", "[ALPHA] Cumulative number of containers started", ("container_type",)
)
FAILED_CONTAINERS: Final = REGISTRY.counter(
    "kubelet_started_containers_errors_total",
    "[ALPHA] Cumulative number of errors when starting containers",
    ("code", "container_type"),
)
RESTARTED: Final = REGISTRY.counter(
    "kubelet_restarted_pods_total",
    "[ALPHA] Number of pods that have been restarted because they were deleted and recreated with the same UID while "
    "the kubelet was watching them (common for static pods, extremely uncommon for API pods)",
    ("static",),
)
USER_NAMESPACED: Final = REGISTRY.counter(
    "kubelet_started_user_namespaced_pods_total",
    "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.",
)
FAILED_USER_NAMESPACED: Final = REGISTRY.counter(
    "kubelet_started_user_namespaced_pods_errors_total",
    "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected "
    "on Linux.",
)


def begin_counts() -> None:
    """Begin what can be counted from zero, so that the first failure is a step that `increase()` sees."""
    for one in (PODS, FAILED_PODS, USER_NAMESPACED, FAILED_USER_NAMESPACED):
        one.labels()
    for static in ("", "true"):
        RESTARTED.labels(static)


def count_start(pod: Pod) -> None:
    """A sandbox of the pod is about to be made."""
    PODS.labels().inc()
    if pod.spec.host_users is False:
        USER_NAMESPACED.labels().inc()


def count_failed_start(pod: Pod) -> None:
    """The pod's sandbox could not be made."""
    FAILED_PODS.labels().inc()
    _count_failed_users(pod)


def count_container_start(pod: Pod, name: str) -> None:
    """A container of the pod is about to be started."""
    CONTAINERS.labels(container_type(pod, name)).inc()


def count_failed_container_start(pod: Pod, name: str, reason: str) -> None:
    """The container was not started, and waits for `reason` (`ErrImagePull`, `CreateContainerError`, …)."""
    FAILED_CONTAINERS.labels(reason, container_type(pod, name)).inc()
    _count_failed_users(pod)


def count_restart(pod: Pod) -> None:
    """A pod that was taken away and came back unchanged begins anew."""
    RESTARTED.labels("true" if is_static(pod) else "").inc()


def _count_failed_users(pod: Pod) -> None:
    if pod.spec.host_users is False:
        FAILED_USER_NAMESPACED.labels().inc()
