"""Counts how pods with users of their own start: `kubelet_started_user_namespaced_pods_total`, and what failed."""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.base.metrics import REGISTRY

STARTED: Final = REGISTRY.counter(
    "kubelet_started_user_namespaced_pods_total",
    "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.",
)
FAILED: Final = REGISTRY.counter(
    "kubelet_started_user_namespaced_pods_errors_total",
    "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.",
)


def count_start(pod: Pod) -> None:
    """A sandbox of the pod is about to be made."""
    if pod.spec.host_users is False:
        STARTED.labels().inc()


def count_failed_start(pod: Pod) -> None:
    """The pod's sandbox or one of its containers could not be started."""
    if pod.spec.host_users is False:
        FAILED.labels().inc()
