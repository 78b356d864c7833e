"""What a ReplicaSet reports of its pods. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tiphys.api.core.v1 import Pod
from tiphys.controllers.common.pods import is_available, is_ready

REPLICA_FAILURE: Final = "ReplicaFailure"


def counts(
    active: Sequence[Pod],
    terminating: int,
    template_labels: Mapping[str, str],
    min_ready_seconds: int,
    observed_generation: int | None,
    now: datetime,
) -> dict[str, int | None]:
    """The numbers of the status; zero is left out where the API leaves it out."""
    labelled = sum(template_labels.items() <= pod.metadata.labels.items() for pod in active)
    ready = sum(is_ready(pod) for pod in active)
    available = sum(is_available(pod, min_ready_seconds, now) for pod in active)
    return {
        "replicas": len(active),
        "fully_labeled_replicas": labelled or None,
        "ready_replicas": ready or None,
        "available_replicas": available or None,
        "terminating_replicas": terminating,
        "observed_generation": observed_generation,
    }


def conditions(
    existing: Sequence[Any],
    error: Exception | None,
    *,
    wanted_more: bool,
    make: Callable[..., Any],
    now: datetime,
) -> tuple[Any, ...]:
    """The conditions with ReplicaFailure present exactly while pods cannot be made or deleted."""
    others = tuple(condition for condition in existing if condition.type != REPLICA_FAILURE)
    if error is None:
        return others
    failing = next((condition for condition in existing if condition.type == REPLICA_FAILURE), None)
    if failing is not None:
        return (*others, failing)
    reason = "FailedCreate" if wanted_more else "FailedDelete"
    moment = now.replace(microsecond=0)
    return (
        *others,
        make(type=REPLICA_FAILURE, status="True", reason=reason, message=str(error), last_transition_time=moment),
    )
