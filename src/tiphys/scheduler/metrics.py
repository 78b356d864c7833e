"""The scheduler's metrics, named as upstream's."""

from __future__ import annotations

from typing import Final

from tiphys.base.metrics import REGISTRY
from tiphys.scheduler.queue import QueuedPod

_SECONDS: Final = tuple(0.0001 * 2**power for power in range(17))

ATTEMPTS: Final = REGISTRY.counter(
    "scheduler_schedule_attempts_total",
    "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while "
    "'error' means an internal scheduler problem.",
    ("profile", "result"),
)
ATTEMPT_SECONDS: Final = REGISTRY.histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
    ("profile", "result"),
    buckets=_SECONDS,
)
POD_ATTEMPTS: Final = REGISTRY.histogram(
    "scheduler_pod_scheduling_attempts",
    "Number of attempts to successfully schedule a pod.",
    (),
    buckets=(1, 2, 4, 8, 16),
)
SLI_SECONDS: Final = REGISTRY.histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve "
    "multiple scheduling attempts.",
    ("attempts",),
    buckets=tuple(0.01 * 2**power for power in range(20)),
)
PENDING: Final = REGISTRY.gauge(
    "scheduler_pending_pods",
    "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of "
    "pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to "
    "schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule "
    "because they are gated.",
    ("queue",),
)
PREEMPTION_ATTEMPTS: Final = REGISTRY.counter(
    "scheduler_preemption_attempts_total", "Total preemption attempts in the cluster till now"
)


def attempt(profile: str, result: str, seconds: float) -> None:
    """One scheduling cycle has ended."""
    ATTEMPTS.labels(profile, result).inc()
    ATTEMPT_SECONDS.labels(profile, result).observe(seconds)


def scheduled(_profile: str, pod: QueuedPod, now: float) -> None:
    """A pod is bound; `now` by the monotonic clock."""
    POD_ATTEMPTS.labels().observe(pod.attempts)
    if pod.first_attempt is not None:
        SLI_SECONDS.labels(str(min(pod.attempts, 16))).observe(now - pod.first_attempt)


def pending(counts: dict[str, int]) -> None:
    for queue, count in counts.items():
        PENDING.labels(queue).set(count)
