"""Reading a pod: is it ready, available, active, and which of several is best deleted.

https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from tiphys.api.core.v1 import Pod, PodCondition

READY: Final = "Ready"
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
_NEVER: Final = timedelta.max


def condition(pod: Pod, type_: str) -> PodCondition | None:
    """The pod's condition of a type."""
    for found in pod.status.conditions:
        if found.type == type_:
            return found
    return None


def is_ready(pod: Pod) -> bool:
    """Whether the Ready condition is True."""
    ready = condition(pod, READY)
    return ready is not None and ready.status == "True"


def ready_since(pod: Pod) -> datetime | None:
    """When the pod became ready; None when it is not."""
    ready = condition(pod, READY)
    return ready.last_transition_time if ready is not None and ready.status == "True" else None


def available_in(pod: Pod, min_ready_seconds: int, now: datetime) -> timedelta | None:
    """Time until the pod counts as available (zero: it does); None while it is not ready."""
    if not is_ready(pod):
        return None
    if not min_ready_seconds:
        return timedelta(0)
    since = ready_since(pod)
    if since is None:
        return None
    return max(timedelta(0), since + timedelta(seconds=min_ready_seconds) - now)


def is_available(pod: Pod, min_ready_seconds: int, now: datetime) -> bool:
    """Whether the pod has been ready for `min_ready_seconds`."""
    return available_in(pod, min_ready_seconds, now) == timedelta(0)


def is_finished(pod: Pod) -> bool:
    """Whether its containers have ended for good."""
    return pod.status.phase in ("Succeeded", "Failed")


def is_active(pod: Pod) -> bool:
    """Whether it runs or will run: not finished, not being deleted."""
    return not is_finished(pod) and pod.metadata.deletion_timestamp is None


def is_terminating(pod: Pod) -> bool:
    """Whether it is being deleted and its containers may still run."""
    return not is_finished(pod) and pod.metadata.deletion_timestamp is not None


def restarts(pod: Pod) -> int:
    """The restart count of the container that restarted most."""
    return max((status.restart_count for status in pod.status.container_statuses), default=0)


def choose_for_deletion(candidates: Sequence[Pod], related: Sequence[Pod], count: int, now: datetime) -> list[Pod]:
    """The `count` pods whose loss costs least, cheapest first.

    In this order: not assigned to a node; Pending, then Unknown; not ready; a lower deletion cost; on
    a node with more pods of `related`; ready for a shorter time; more restarts; younger. Times are
    compared by their logarithm, so that age decides only where it differs much, and the uid decides
    the rest: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset
    """
    if count >= len(candidates):
        return list(candidates)
    doubled: dict[str, int] = {}
    for pod in related:
        if is_active(pod):
            doubled[pod.spec.node_name] = doubled.get(pod.spec.node_name, 0) + 1
    return sorted(candidates, key=lambda pod: _deletion_key(pod, doubled, now))[:count]


_PHASE_ORDER: Final = {"Pending": 0, "Unknown": 1, "Running": 2}


def _deletion_key(pod: Pod, doubled: dict[str, int], now: datetime) -> tuple[object, ...]:
    ready = is_ready(pod)
    return (
        bool(pod.spec.node_name),
        _PHASE_ORDER.get(pod.status.phase, 0),
        ready,
        deletion_cost(pod),
        -doubled.get(pod.spec.node_name, 0),
        _log_age(ready_since(pod), now) if ready else 0,
        -restarts(pod),
        _log_age(pod.metadata.creation_timestamp, now),
        pod.metadata.uid,
    )


def _log_age(since: datetime | None, now: datetime) -> int:
    """The age as a power of two of nanoseconds; no time at all is younger than any."""
    if since is None:
        return -2
    nanoseconds = (now - since) // timedelta(microseconds=1) * 1000
    return -1 if nanoseconds <= 0 else int(math.log2(nanoseconds))


def deletion_cost(pod: Pod) -> int:
    """The pod-deletion-cost annotation; what is not a 32-bit number counts as 0."""
    text = pod.metadata.annotations.get(DELETION_COST, "0")
    try:
        cost = int(text)
    except ValueError:
        return 0
    return cost if -(2**31) <= cost < 2**31 else 0
