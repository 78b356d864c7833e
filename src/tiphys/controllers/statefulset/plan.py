"""What a StatefulSet does next. Pure.

In order (OrderedReady) one thing happens at a time: pod n is made when all before it are ready, the
last pod goes first, and one that is not ready goes only when all before it are ready, so that whoever
looks into what is wrong finds it. Parallel does all of it at once. An update
replaces pods from the last to the partition, each when those after it are available.

    wanted: 0 1 2      pods: 0 1 2 3 4      4 goes, then 3: "condemned"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tiphys.api.apps.v1 import ControllerRevision, StatefulSet
from tiphys.api.core.v1 import Pod
from tiphys.controllers.common.pods import is_available, is_finished, is_ready
from tiphys.controllers.statefulset.identity import REVISION, ordinals


@dataclass(slots=True)
class Plan:
    """Numbers to make a pod for, with the revision each gets, and pods to delete."""

    create: list[tuple[int, ControllerRevision]] = field(default_factory=list)
    delete: list[Pod] = field(default_factory=list)


def partition(owner: StatefulSet) -> int:
    """Pods below this number keep the old revision."""
    strategy = owner.spec.update_strategy
    rolling = strategy.rolling_update if strategy is not None else None
    return rolling.partition or 0 if rolling is not None else 0


def is_rolling(owner: StatefulSet) -> bool:
    """Whether the controller replaces pods itself."""
    strategy = owner.spec.update_strategy
    return strategy is None or strategy.type in ("", "RollingUpdate")


def plan(
    owner: StatefulSet,
    pods: Mapping[int, Pod],
    current: ControllerRevision,
    update: ControllerRevision,
    now: datetime,
) -> Plan:
    """The next step for the pods there are, by number."""
    result = Plan()
    parallel = owner.spec.pod_management_policy == "Parallel"
    numbers = ordinals(owner)
    condemned = sorted((number for number in pods if number not in numbers), reverse=True)
    first_unready = min((number for number, pod in pods.items() if not _steady(owner, pod, now)), default=None)
    for number in numbers:
        pod = pods.get(number)
        if pod is None:
            result.create.append((number, _revision_for(owner, number, current, update)))
        elif is_finished(pod) and pod.metadata.deletion_timestamp is None:
            result.delete.append(pod)
        elif parallel or _steady(owner, pod, now):
            continue
        if not parallel:
            return result
    for number in condemned:
        pod = pods[number]
        if pod.metadata.deletion_timestamp is not None:
            if not parallel:
                return result
            continue
        if not parallel and number != first_unready and not _steady(owner, pod, now):
            return result
        result.delete.append(pod)
        if not parallel:
            return result
    if is_rolling(owner) and not result.create and not result.delete:
        result.delete += _outdated(owner, pods, update, numbers, now)
    return result


def _revision_for(
    owner: StatefulSet, number: int, current: ControllerRevision, update: ControllerRevision
) -> ControllerRevision:
    """The old revision below the partition, and everywhere while only users replace pods."""
    if not is_rolling(owner):
        return update
    below = number < partition(owner) + ordinals(owner).start
    return current if below else update


def _outdated(
    owner: StatefulSet, pods: Mapping[int, Pod], update: ControllerRevision, numbers: Sequence[int], now: datetime
) -> list[Pod]:
    """The last pod that is not of the new revision, once all after it are available."""
    first = ordinals(owner).start + partition(owner)
    for number in reversed(numbers):
        if number < first:
            break
        pod = pods.get(number)
        if pod is None:
            break
        if pod.metadata.labels.get(REVISION) != update.metadata.name:
            return [pod] if pod.metadata.deletion_timestamp is None else []
        if not _steady(owner, pod, now):
            break
    return []


def _steady(owner: StatefulSet, pod: Pod, now: datetime) -> bool:
    """Whether the next pod need not wait for this one."""
    return (
        pod.metadata.deletion_timestamp is None
        and pod.status.phase == "Running"
        and is_ready(pod)
        and is_available(pod, owner.spec.min_ready_seconds or 0, now)
    )
