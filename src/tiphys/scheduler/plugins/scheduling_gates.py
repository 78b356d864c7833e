"""SchedulingGates: a pod with gates is not ready to be scheduled. Source: "Pod Scheduling Readiness"."""

from __future__ import annotations

from typing import ClassVar

from tiphys.scheduler.framework.events import Event, Requeue
from tiphys.scheduler.framework.interface import Refusal
from tiphys.scheduler.podinfo import PodInfo


def gates_removed(pod: PodInfo, _old: object, new: object) -> bool:
    """Only the pod's own update opens it."""
    return isinstance(new, PodInfo) and new.uid == pod.uid and not new.pod.spec.scheduling_gates


class SchedulingGates:
    name: ClassVar[str] = "SchedulingGates"
    requeue_on: ClassVar[Requeue] = {Event.TARGET_POD_UPDATE: gates_removed}

    def pre_enqueue(self, pod: PodInfo) -> Refusal | None:
        gates = pod.pod.spec.scheduling_gates
        if not gates:
            return None
        return Refusal(f"waiting for scheduling gates: [{' '.join(gate.name for gate in gates)}]")
