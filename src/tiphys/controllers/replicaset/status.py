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
    labelled = ready = available = 0
    fits: dict[int, bool] = {}  # by identity: in the cache the pods of a template share their labels
    for pod in active:
        labels = pod.metadata.labels
        fit = fits.get(id(labels))
        if fit is None:
            fit = fits[id(labels)] = template_labels.items() <= labels.items()
        labelled += fit
        if is_ready(pod):
            ready += 1
            available += not min_ready_seconds or is_available(pod, min_ready_seconds, now)
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
