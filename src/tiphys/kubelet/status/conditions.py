"""The conditions that the kubelet owns on a pod.

https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions. Conditions of
others (PodScheduled, DisruptionTarget, readiness gates) pass through untouched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import ContainerStatus, Pod, PodCondition
from tiphys.kubelet.pod import is_sidecar

READY_TO_START: Final = "PodReadyToStartContainers"
INITIALIZED: Final = "Initialized"
CONTAINERS_READY: Final = "ContainersReady"
READY: Final = "Ready"
SCHEDULED: Final = "PodScheduled"
DISRUPTION_TARGET: Final = "DisruptionTarget"

RESIZE_PENDING: Final = "PodResizePending"
RESIZE_IN_PROGRESS: Final = "PodResizeInProgress"
ALL_RESTARTING: Final = "AllContainersRestarting"

OWNED: Final = frozenset({READY_TO_START, INITIALIZED, CONTAINERS_READY, READY})
# Only there while they are true.
PASSING: Final = frozenset({RESIZE_PENDING, RESIZE_IN_PROGRESS, ALL_RESTARTING})


def pod_conditions(
    pod: Pod,
    init: Sequence[ContainerStatus],
    regular: Sequence[ContainerStatus],
    phase: str,
    *,
    sandbox_ready: bool,
) -> tuple[PodCondition, ...]:
    """The owned conditions, without times (see `with_transitions`)."""
    containers_ready = _containers_ready(pod, init, regular, phase)
    return (
        _condition(pod, READY_TO_START, sandbox_ready),
        _initialized(pod, init, regular, phase),
        _ready(pod, containers_ready),
        containers_ready,
        _condition(pod, SCHEDULED, True),
    )


def restarting_condition(pod: Pod) -> PodCondition:
    """All containers are on the way to a new start."""
    return _condition(pod, ALL_RESTARTING, True)


def with_transitions(
    fresh: Iterable[PodCondition], old: Iterable[PodCondition], now: datetime
) -> tuple[PodCondition, ...]:
    """`fresh` with the transition time of the old condition of equal status, else `now`; others' conditions kept."""
    before = {condition.type: condition for condition in old}
    merged = []
    for condition in fresh:
        known = before.pop(condition.type, None)
        if condition.type == SCHEDULED and known is not None:
            merged.append(replace(known, observed_generation=condition.observed_generation))
            continue
        same = known is not None and known.status == condition.status and known.last_transition_time is not None
        moved = known.last_transition_time if same and known is not None else now
        merged.append(replace(condition, last_transition_time=moved))
    return (*merged, *(condition for condition in before.values() if condition.type not in PASSING))


def _condition(pod: Pod, kind: str, holds: bool, reason: str = "", message: str = "") -> PodCondition:
    return PodCondition(
        type=kind,
        status="True" if holds else "False",
        reason=reason,
        message=message,
        observed_generation=pod.metadata.generation,
    )


def _initialized(
    pod: Pod, init: Sequence[ContainerStatus], regular: Sequence[ContainerStatus], phase: str
) -> PodCondition:
    if phase == "Succeeded":
        return _condition(pod, INITIALIZED, True, "PodCompleted")
    # Once a regular container has been seen, a sidecar that is down does not take it back.
    if any(status.state is not None and status.state.waiting is None for status in regular):
        return _condition(pod, INITIALIZED, True)
    by_name = {status.name: status for status in init}
    incomplete = []
    for container in pod.spec.init_containers:
        status = by_name.get(container.name)
        terminated = status.state.terminated if status and status.state else None
        if is_sidecar(container):
            done = status is not None and bool(status.started)
        else:
            done = terminated is not None and terminated.exit_code == 0
        if not done:
            incomplete.append(container.name)
    if not incomplete:
        return _condition(pod, INITIALIZED, True)
    return _condition(
        pod,
        INITIALIZED,
        False,
        "ContainersNotInitialized",
        f"containers with incomplete status: [{' '.join(incomplete)}]",
    )


def _containers_ready(
    pod: Pod, init: Sequence[ContainerStatus], regular: Sequence[ContainerStatus], phase: str
) -> PodCondition:
    if phase == "Succeeded":
        return _condition(pod, CONTAINERS_READY, False, "PodCompleted")
    if phase == "Failed":
        return _condition(pod, CONTAINERS_READY, False, "PodFailed")
    statuses = {status.name: status for status in (*init, *regular)}
    counted = [c for c in pod.spec.init_containers if is_sidecar(c)] + list(pod.spec.containers)
    unknown = [c.name for c in counted if c.name not in statuses]
    unready = [c.name for c in counted if c.name in statuses and not statuses[c.name].ready]
    parts = []
    if unknown:
        parts.append(f"containers with unknown status: [{' '.join(unknown)}]")
    if unready:
        parts.append(f"containers with unready status: [{' '.join(unready)}]")
    if parts:
        return _condition(pod, CONTAINERS_READY, False, "ContainersNotReady", ", ".join(parts))
    return _condition(pod, CONTAINERS_READY, True)


def _ready(pod: Pod, containers_ready: PodCondition) -> PodCondition:
    if containers_ready.status != "True":
        return replace(containers_ready, type=READY)
    known = {condition.type: condition for condition in pod.status.conditions}
    unmet = []
    for gate in pod.spec.readiness_gates:
        condition = known.get(gate.condition_type)
        if condition is None:
            unmet.append(f'corresponding condition of pod readiness gate "{gate.condition_type}" does not exist.')
        elif condition.status != "True":
            unmet.append(
                f'the status of pod readiness gate "{gate.condition_type}" is not "True", but {condition.status}'
            )
    if unmet:
        return _condition(pod, READY, False, "ReadinessGatesNotReady", ", ".join(unmet))
    return _condition(pod, READY, True)
