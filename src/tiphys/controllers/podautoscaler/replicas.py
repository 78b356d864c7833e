"""How many replicas a measurement asks for: ceil(replicas × measured / wanted), carefully. Pure.

Pods that are not ready or have no measurement yet do not count at first; before anything is done
they are put in with what makes the change smaller (nothing when scaling up, everything they may use
when scaling down), and a change that turns round or vanishes by that is not made.
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tiphys.api.core.v1 import Pod
from tiphys.controllers.common.pods import condition
from tiphys.controllers.podautoscaler.metrics import MetricsError, Sample, milli


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far measured and wanted may differ without anything being done, as a part of one."""

    up: float = 0.1
    down: float = 0.1

    def tolerate(self, ratio: float) -> bool:
        """Whether the difference is small enough to ignore."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True, slots=True)
class Groups:
    """Pods by what their measurement is worth."""

    ready: frozenset[str]
    unready: frozenset[str]
    missing: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How long CPU of a pod that has just started is not trusted."""

    cpu_period: timedelta
    readiness_delay: timedelta


def group(pods: Iterable[Pod], samples: Mapping[str, Sample], now: datetime, start: Start | None) -> Groups:
    """Sort pods; those that failed or are going away are in no group. `start`: given when it is about CPU."""
    ready, unready, missing = set(), set(), set()
    for pod in pods:
        name = pod.metadata.name
        if pod.metadata.deletion_timestamp is not None or pod.status.phase == "Failed":
            continue
        if pod.status.phase == "Pending":
            unready.add(name)
        elif name not in samples:
            missing.add(name)
        elif start is not None and _is_starting(pod, samples[name], now, start):
            unready.add(name)
        else:
            ready.add(name)
    return Groups(frozenset(ready), frozenset(unready), frozenset(missing))


def _is_starting(pod: Pod, sample: Sample, now: datetime, start: Start) -> bool:
    found, began = condition(pod, "Ready"), pod.status.start_time
    if found is None or began is None or found.last_transition_time is None:
        return True
    if began + start.cpu_period > now:
        # Measured wholly after it became ready, or not to be trusted.
        early = sample.at is not None and sample.at < found.last_transition_time + sample.window
        return found.status == "False" or early
    # Was never ready since it started.
    return found.status == "False" and began + start.readiness_delay > found.last_transition_time


def requests(pods: Iterable[Pod], resource: str, container: str = "") -> dict[str, int]:
    """What each pod requests, in thousandths. Raises MetricsError for a container that requests nothing."""
    found = {}
    for pod in pods:
        sidecars = [one for one in pod.spec.init_containers if one.restart_policy == "Always"]
        total = 0
        for one in (*pod.spec.containers, *sidecars):
            if container not in ("", one.name):
                continue
            text = one.resources.requests.get(resource) if one.resources is not None else None
            if text is None:
                raise MetricsError(f"missing request for {resource} in container {one.name} of Pod {pod.metadata.name}")
            total += milli(text)
        found[pod.metadata.name] = total
    return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a metric asks for: replicas, and the measurement that the status shows."""

    replicas: int
    average: int  # thousandths a pod
    utilization: int | None = None  # percent of the request


def by_utilization(
    current: int, target: int, values: Mapping[str, int], groups: Groups, requested: Mapping[str, int], limits: Limits
) -> Wanted:
    """Replicas for `target` percent of what is requested. Raises MetricsError without a usable measurement."""
    known = {name: value for name, value in values.items() if name in groups.ready}
    if not known:
        raise MetricsError("did not receive metrics for targeted pods (pods might be unready)")
    ratio, utilization, average = _utilization(known, requested, target)

    def full(name: str) -> int:
        return requested[name] * max(100, target) // 100

    def again(filled: Mapping[str, int]) -> float:
        return _utilization(filled, requested, target)[0]

    missing = {name: 0 if ratio > 1.0 else full(name) for name in groups.missing}
    replicas = _settle(current, ratio, known, missing, groups, again, limits)
    return Wanted(replicas, average, utilization)


def _utilization(values: Mapping[str, int], requested: Mapping[str, int], target: int) -> tuple[float, int, int]:
    used, asked = 0, 0
    for name, value in values.items():
        if name in requested:
            used, asked = used + value, asked + requested[name]
    if asked == 0:
        raise MetricsError("no metrics returned matched known pods")
    utilization = used * 100 // asked
    return utilization / target, utilization, used // len(values)


def by_average(current: int, target: int, values: Mapping[str, int], groups: Groups, limits: Limits) -> Wanted:
    """Replicas for `target` thousandths a pod on average. Raises MetricsError without a usable measurement."""
    known = {name: value for name, value in values.items() if name in groups.ready}
    if not known:
        raise MetricsError("did not receive metrics for targeted pods (pods might be unready)")

    def ratio_of(filled: Mapping[str, int]) -> float:
        return sum(filled.values()) // len(filled) / target

    ratio = ratio_of(known)
    missing = dict.fromkeys(groups.missing, 0 if ratio > 1.0 else target)
    replicas = _settle(current, ratio, known, missing, groups, ratio_of, limits)
    return Wanted(replicas, sum(known.values()) // len(known))


def _settle(
    current: int,
    ratio: float,
    known: Mapping[str, int],
    missing: Mapping[str, int],
    groups: Groups,
    again: Callable[[Mapping[str, int]], float],
    limits: Limits,
) -> int:
    with_unready = bool(groups.unready) and ratio > 1.0
    if not with_unready and not missing:
        return current if limits.tolerate(ratio) else math.ceil(round(ratio * len(known), 9))
    filled = {**known, **missing}
    if with_unready:
        filled |= dict.fromkeys(groups.unready, 0)
    changed = again(filled)
    if limits.tolerate(changed) or (ratio < 1.0 < changed) or (changed < 1.0 < ratio):
        return current
    wanted = math.ceil(round(changed * len(filled), 9))
    turned_round = (changed < 1.0 and wanted > current) or (changed > 1.0 and wanted < current)
    return current if turned_round else wanted


def by_value(current: int, ready: int, usage: int, target: int, limits: Limits) -> int:
    """Replicas for one number about all of them together, `target` for the whole."""
    ratio = usage / target
    if limits.tolerate(ratio):
        return current
    # Nothing runs: any load at all needs one to begin with.
    return math.ceil(round(ratio * ready, 9)) if current else math.ceil(ratio)


def by_value_per_pod(current: int, usage: int, target: int, limits: Limits) -> int:
    """Replicas for one number about all of them together, `target` for each."""
    if current and limits.tolerate(usage / (target * current)):
        return current
    return math.ceil(usage / target)
