"""What a Deployment reports: its numbers, and the conditions Available, Progressing, ReplicaFailure. Pure.

https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.apps.v1 import Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet
from tiphys.controllers.deployment.replicas import (
    max_unavailable,
    total_actual,
    total_available,
    total_ready,
    total_wanted,
    wanted,
)

AVAILABLE: Final = "Available"
PROGRESSING: Final = "Progressing"
REPLICA_FAILURE: Final = "ReplicaFailure"

FOUND: Final = "FoundNewReplicaSet"
CREATED: Final = "NewReplicaSetCreated"
CREATE_FAILED: Final = "ReplicaSetCreateError"
UPDATED: Final = "ReplicaSetUpdated"
COMPLETE: Final = "NewReplicaSetAvailable"
TIMED_OUT: Final = "ProgressDeadlineExceeded"
PAUSED: Final = "DeploymentPaused"
RESUMED: Final = "DeploymentResumed"

# `progressDeadlineSeconds` of this value means no deadline.
NO_DEADLINE: Final = 2**31 - 1


def has_deadline(deployment: Deployment) -> bool:
    """Whether progress is watched at all."""
    seconds = deployment.spec.progress_deadline_seconds
    return seconds is not None and seconds != NO_DEADLINE


def find(conditions: Iterable[DeploymentCondition], type_: str) -> DeploymentCondition | None:
    """The condition of a type."""
    return next((condition for condition in conditions if condition.type == type_), None)


def make(type_: str, status: str, reason: str, message: str, now: datetime) -> DeploymentCondition:
    """A condition that changes now."""
    moment = now.replace(microsecond=0)
    return DeploymentCondition(
        type=type_, status=status, reason=reason, message=message, last_update_time=moment, last_transition_time=moment
    )


def put(conditions: Sequence[DeploymentCondition], new: DeploymentCondition) -> tuple[DeploymentCondition, ...]:
    """`conditions` with `new`; one of equal status and reason stays as it is, the time of a status that stays too."""
    current = find(conditions, new.type)
    if current is not None:
        if current.status == new.status and current.reason == new.reason:
            return tuple(conditions)
        if current.status == new.status:
            new = replace(new, last_transition_time=current.last_transition_time)
    return (*drop(conditions, new.type), new)


def drop(conditions: Iterable[DeploymentCondition], type_: str) -> tuple[DeploymentCondition, ...]:
    """`conditions` without those of a type."""
    return tuple(condition for condition in conditions if condition.type != type_)


def status_of(
    deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None, now: datetime
) -> DeploymentStatus:
    """The numbers, and whether the Deployment is available."""
    available = total_available(sets)
    if available >= wanted(deployment) - max_unavailable(deployment):
        availability = make(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
    else:
        availability = make(
            AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now
        )
    known = [rs.status.terminating_replicas for rs in sets]
    terminating = None if any(count is None for count in known) else sum(count or 0 for count in known)
    return DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        replicas=total_actual(sets) or None,
        updated_replicas=(new.status.replicas if new is not None else 0) or None,
        ready_replicas=total_ready(sets) or None,
        available_replicas=available or None,
        unavailable_replicas=max(0, total_wanted(sets) - available) or None,
        terminating_replicas=terminating,
        collision_count=deployment.status.collision_count,
        conditions=put(deployment.status.conditions, availability),
    )


def is_complete(deployment: Deployment, status: DeploymentStatus) -> bool:
    """Whether all pods are of the current template and available, and no old one is left."""
    target = wanted(deployment)
    return (
        (status.updated_replicas or 0) == target
        and (status.replicas or 0) == target
        and (status.available_replicas or 0) == target
        and (status.observed_generation or 0) >= (deployment.metadata.generation or 0)
    )


def is_progressing(deployment: Deployment, status: DeploymentStatus) -> bool:
    """Whether anything moved since the last report."""
    before = deployment.status
    old_before = (before.replicas or 0) - (before.updated_replicas or 0)
    old_now = (status.replicas or 0) - (status.updated_replicas or 0)
    return (
        (status.updated_replicas or 0) > (before.updated_replicas or 0)
        or old_now < old_before
        or (status.ready_replicas or 0) > (before.ready_replicas or 0)
        or (status.available_replicas or 0) > (before.available_replicas or 0)
    )


def deadline_left(deployment: Deployment, now: datetime) -> timedelta | None:
    """Time until the rollout counts as stuck (zero or less: it does); None when it cannot be."""
    current = find(deployment.status.conditions, PROGRESSING)
    if not has_deadline(deployment) or current is None or current.reason in (COMPLETE, PAUSED):
        return None
    since = current.last_update_time or current.last_transition_time
    if since is None:
        return None
    return since + timedelta(seconds=deployment.spec.progress_deadline_seconds or 0) - now


def with_progress(
    deployment: Deployment,
    status: DeploymentStatus,
    new: ReplicaSet | None,
    failure: DeploymentCondition | None,
    now: datetime,
) -> DeploymentStatus:
    """`status` with the Progressing and ReplicaFailure conditions brought up to date."""
    conditions = status.conditions
    if not has_deadline(deployment):
        conditions = drop(conditions, PROGRESSING)
    current = find(deployment.status.conditions, PROGRESSING)
    finished_before = status.replicas == status.updated_replicas and current is not None and current.reason == COMPLETE
    if has_deadline(deployment) and not finished_before:
        conditions = _progress(deployment, status, conditions, new, now)
    conditions = drop(conditions, REPLICA_FAILURE)
    if failure is not None:
        conditions = put(conditions, failure)
    return replace(status, conditions=conditions)


def _progress(
    deployment: Deployment,
    status: DeploymentStatus,
    conditions: tuple[DeploymentCondition, ...],
    new: ReplicaSet | None,
    now: datetime,
) -> tuple[DeploymentCondition, ...]:
    who = f'ReplicaSet "{new.metadata.name}"' if new is not None else f'Deployment "{deployment.metadata.name}"'
    current = find(deployment.status.conditions, PROGRESSING)
    if is_complete(deployment, status):
        return put(conditions, make(PROGRESSING, "True", COMPLETE, f"{who} has successfully progressed.", now))
    if is_progressing(deployment, status):
        moved = make(PROGRESSING, "True", UPDATED, f"{who} is progressing.", now)
        if current is not None:
            if current.status == "True":
                moved = replace(moved, last_transition_time=current.last_transition_time)
            conditions = drop(conditions, PROGRESSING)
        return put(conditions, moved)
    left = deadline_left(deployment, now)
    if left is not None and left <= timedelta(0) and current is not None:
        return put(conditions, make(PROGRESSING, "False", TIMED_OUT, f"{who} has timed out progressing.", now))
    return conditions


def replica_failure(sets: Sequence[ReplicaSet], new: ReplicaSet | None) -> DeploymentCondition | None:
    """The ReplicaFailure of a set, the new one's first: the Deployment has it too."""
    for rs in ([new] if new is not None else []) + list(sets):
        for found in rs.status.conditions:
            if found.type == REPLICA_FAILURE:
                return DeploymentCondition(
                    type=REPLICA_FAILURE,
                    status=found.status,
                    reason=found.reason,
                    message=found.message,
                    last_update_time=found.last_transition_time,
                    last_transition_time=found.last_transition_time,
                )
    return None
