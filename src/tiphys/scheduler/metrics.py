"""The scheduler's metrics, named as upstream's.

https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tiphys.base.metrics import REGISTRY, HistogramValue

_SECONDS: Final = tuple(0.0001 * 2**power for power in range(17))
_MILLISECONDS: Final = tuple(0.001 * 2**power for power in range(15))

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
ALGORITHM_SECONDS: Final = REGISTRY.histogram(
    "scheduler_scheduling_algorithm_duration_seconds", "Scheduling algorithm latency in seconds", (), _MILLISECONDS
)
EXTENSION_POINT_SECONDS: Final = REGISTRY.histogram(
    "scheduler_framework_extension_point_duration_seconds",
    "Latency for running all plugins of a specific extension point.",
    ("extension_point", "status", "profile"),
    buckets=tuple(0.0001 * 2**power for power in range(12)),
)
PLUGIN_SECONDS: Final = REGISTRY.histogram(
    "scheduler_plugin_execution_duration_seconds",
    "Duration for running a plugin at a specific extension point.",
    ("plugin", "extension_point", "status"),
    buckets=tuple(0.00001 * 1.5**power for power in range(20)),
)
INCOMING: Final = REGISTRY.counter(
    "scheduler_queue_incoming_pods_total",
    "Number of pods added to scheduling queues by event and queue type.",
    ("queue", "event"),
)
UNSCHEDULABLE: Final = REGISTRY.gauge(
    "scheduler_unschedulable_pods",
    "The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that "
    "caused it to not schedule and so this metric have meaning only when broken down by plugin.",
    ("plugin", "profile"),
)
CACHE_SIZE: Final = REGISTRY.gauge(
    "scheduler_cache_size", "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.", ("type",)
)
AT_WORK: Final = REGISTRY.gauge(
    "scheduler_goroutines",
    "Number of running goroutines split by the work they do such as binding.",
    ("operation",),
)
PERMIT_SECONDS: Final = REGISTRY.histogram(
    "scheduler_permit_wait_duration_seconds", "Duration of waiting on permit.", ("result",), buckets=_MILLISECONDS
)
PREEMPTION_VICTIMS: Final = REGISTRY.histogram(
    "scheduler_preemption_victims", "Number of selected preemption victims", (), buckets=(1, 2, 4, 8, 16, 32, 64)
)
PREEMPTION_ATTEMPTS: Final = REGISTRY.counter(
    "scheduler_preemption_attempts_total", "Total preemption attempts in the cluster till now"
)


def attempt(profile: str, result: str, seconds: float) -> None:
    """An attempt has ended, of a pod that is scheduled with its binding."""
    ATTEMPTS.labels(profile, result).inc()
    ATTEMPT_SECONDS.labels(profile, result).observe(seconds)


def scheduled(attempts: int, seconds: float) -> None:
    """A pod is bound, so long after its first attempt."""
    POD_ATTEMPTS.labels().observe(attempts)
    SLI_SECONDS.labels(str(min(attempts, 16))).observe(seconds)


def state(counts: Mapping[str, int], unschedulable: Mapping[tuple[str, str], int], cache: Mapping[str, int]) -> None:
    """What there is now: pods by queue, by plugin and profile that keep them back, and the cache's by type."""
    for queue, count in counts.items():
        PENDING.labels(queue).set(count)
    for kind, count in cache.items():
        CACHE_SIZE.labels(kind).set(count)
    UNSCHEDULABLE.clear()
    for (plugin, profile), count in unschedulable.items():
        UNSCHEDULABLE.labels(plugin, profile).set(count)


class PointTimes:
    """How long the extension points of one profile take."""

    def __init__(self, profile: str) -> None:
        self._profile = profile
        self._known: dict[tuple[str, str], HistogramValue] = {}

    def took(self, point: str, seconds: float, status: str = "Success") -> None:
        known = self._known.get((point, status))
        if known is None:
            known = EXTENSION_POINT_SECONDS.labels(point, status, self._profile)
            self._known[point, status] = known
        known.observe(seconds)
