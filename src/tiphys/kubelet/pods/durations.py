"""Times what a pod's worker does: `kubelet_pod_worker_*`, and how long a pod took to run: `kubelet_pod_start_*`.

```
 seen ── admitted ──► first sync ······► every container started (SLI: by the API, without pulls and init containers)
   └ worker start ───┘├ create ──┤ ├ update ┤ ├ sync ┤ ├ kill ┤
   └ pod start ──────────────────► phase Running
```
https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.base.clock import Clock
from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.pod import is_sidecar, is_static, is_terminal

_START_BUCKETS: Final = (0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600)
START_BUCKETS: Final = (*_START_BUCKETS, 900, 1200, 1800, 2700, 3600)

SYNC_DURATION: Final = REGISTRY.histogram(
    "kubelet_pod_worker_duration_seconds",
    "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
    ("operation_type",),
)
WORKER_START: Final = REGISTRY.histogram(
    "kubelet_pod_worker_start_duration_seconds",
    "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.",
)
POD_START: Final = REGISTRY.histogram(
    "kubelet_pod_start_duration_seconds",
    "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
    (),
    START_BUCKETS,
)
POD_START_SLI: Final = REGISTRY.histogram(
    "kubelet_pod_start_sli_duration_seconds",
    "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from "
    "pod creation timestamp to when all its containers are reported as started and observed via watch",
    (),
    START_BUCKETS,
)
POD_START_TOTAL: Final = REGISTRY.histogram(
    "kubelet_pod_start_total_duration_seconds",
    "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, "
    "measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
    (),
    START_BUCKETS,
)


class WorkerTimes:
    """The times of one pod, told by its worker.

    A sync lasts from the moment something is to be done until nothing is, or until it has to be tried again.
    """

    __slots__ = ("_asked", "_awaits_start", "_began", "_clock", "_pending", "_ran", "_seen")

    def __init__(self, pod: Pod, clock: Clock) -> None:
        self._clock = clock
        self._seen = clock.monotonic()
        self._began: float | None = None
        self._asked = "create"
        # What an earlier kubelet has begun with was timed by it, or by nobody; static pods have no creation in the API.
        self._pending = False
        self._ran = pod.status.start_time is not None
        self._awaits_start = pod.status.start_time is None and not is_static(pod)

    def asked(self) -> None:
        """The source has a newer version of the pod."""
        if self._asked == "sync":
            self._asked = "update"

    def begin(self) -> None:
        """The worker looks at what is to be done; it may do so several times in one sync."""
        if self._began is None:
            self._began = self._clock.monotonic()
            if self._asked == "create":
                WORKER_START.labels().observe(self._began - self._seen)

    def end(self, *, ending: bool) -> None:
        """Nothing more is to be done now. `ending`: the pod was being brought to its end."""
        if self._began is not None:
            kind = "kill" if ending else self._asked
            SYNC_DURATION.labels(kind).observe(self._clock.monotonic() - self._began)
            self._began, self._asked = None, "sync"

    def phase(self, phase: str) -> None:
        """The pod's phase is to be reported: its first Running ends its start."""
        if phase == "Pending":
            self._pending = True
        elif not self._ran:
            self._ran = True
            if phase == "Running" and self._pending:  # what ran when it was first looked at was not started here
                POD_START.labels().observe(self._clock.monotonic() - self._seen)

    def observed(self, pod: Pod, runtime: RuntimePod, pulling: float) -> None:
        """The API's watch shows the pod like this. `pulling`: seconds its images were waited for."""
        if not self._awaits_start:
            return
        if is_terminal(pod):
            self._awaits_start = False
        elif all_started(pod):
            self._awaits_start = False
            total, excluded = start_times(pod, runtime, pulling, self._clock.now())
            POD_START_TOTAL.labels().observe(total)
            POD_START_SLI.labels().observe(max(0.0, total - excluded))


def all_started(pod: Pod) -> bool:
    """Whether the pod's status shows every container running."""
    statuses = pod.status.container_statuses
    return len(statuses) == len(pod.spec.containers) and all(
        status.state is not None and status.state.running is not None for status in statuses
    )


def start_times(pod: Pod, runtime: RuntimePod, pulling: float, now: datetime) -> tuple[float, float]:
    """Seconds since the pod was created, and how many of them went into its images and init containers."""
    created = pod.metadata.creation_timestamp or now
    preparing = timedelta()
    for init in pod.spec.init_containers:
        if is_sidecar(init):
            continue
        for container in runtime.containers:
            if container.name == init.name and container.started_at and container.finished_at:
                preparing += container.finished_at - container.started_at
    return (now - created).total_seconds(), pulling + preparing.total_seconds()
