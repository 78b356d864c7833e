"""How fast a recommendation may be followed: stabilization first, then scaling policies. Pure.

    recommendations of the window      3 5 9 4        now 4, running 6
      scaling down takes the highest of the window:   9 → stays 6
      scaling up takes the lowest of its own window

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#configurable-scaling-behavior
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tiphys.api.autoscaling.v2 import HorizontalPodAutoscalerBehavior, HPAScalingPolicy, HPAScalingRules
from tiphys.controllers.podautoscaler.conditions import Outcome

UP: Final = HPAScalingRules(
    stabilization_window_seconds=0,
    select_policy="Max",
    policies=(
        HPAScalingPolicy(type="Pods", value=4, period_seconds=15),
        HPAScalingPolicy(type="Percent", value=100, period_seconds=15),
    ),
)
DOWN: Final = HPAScalingRules(
    select_policy="Max", policies=(HPAScalingPolicy(type="Percent", value=100, period_seconds=15),)
)


@dataclass(slots=True)
class History:
    """What one autoscaler recommended and did lately."""

    recommendations: list[tuple[datetime, int]] = field(default_factory=list)
    ups: list[tuple[datetime, int]] = field(default_factory=list)  # replicas added
    downs: list[tuple[datetime, int]] = field(default_factory=list)  # replicas removed

    def forget_before(self, moment: datetime) -> None:
        """Drop what no window reaches any more."""
        for events in (self.recommendations, self.ups, self.downs):
            events[:] = [entry for entry in events if entry[0] >= moment]


def _given(rules: HPAScalingRules | None, defaults: HPAScalingRules, window: timedelta) -> HPAScalingRules:
    """The rules of a direction, with defaults for what they leave out."""
    seconds = rules.stabilization_window_seconds if rules is not None else None
    if seconds is None:
        default = defaults.stabilization_window_seconds
        seconds = int(window.total_seconds()) if default is None else default
    return HPAScalingRules(
        stabilization_window_seconds=seconds,
        select_policy=(rules.select_policy if rules is not None else None) or defaults.select_policy,
        policies=rules.policies if rules is not None and rules.policies else defaults.policies,
    )


def rules_of(
    behavior: HorizontalPodAutoscalerBehavior | None, downscale_window: timedelta
) -> tuple[HPAScalingRules, HPAScalingRules]:
    """The rules for up and for down."""
    up = behavior.scale_up if behavior is not None else None
    down = behavior.scale_down if behavior is not None else None
    return _given(up, UP, downscale_window), _given(down, DOWN, downscale_window)


def stabilize(
    current: int, wanted: int, history: History, up: HPAScalingRules, down: HPAScalingRules, now: datetime
) -> tuple[int, Outcome]:
    """The recommendation that may be followed now; `wanted` is put on record."""
    lowest, highest = wanted, wanted
    for moment, value in history.recommendations:
        if moment > now - timedelta(seconds=up.stabilization_window_seconds or 0):
            lowest = min(lowest, value)
        if moment > now - timedelta(seconds=down.stabilization_window_seconds or 0):
            highest = max(highest, value)
    history.recommendations.append((now, wanted))
    result = min(max(current, lowest), highest)
    if result == wanted:
        return result, Outcome("ReadyForNewScale", "recommended size matches current size")
    if wanted >= current:
        return result, Outcome(
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )
    return result, Outcome(
        "ScaleDownStabilized",
        "recent recommendations were higher than current one, applying the highest recent recommendation",
    )


def _changed(events: Iterable[tuple[datetime, int]], seconds: int, now: datetime) -> int:
    return sum(count for moment, count in events if moment > now - timedelta(seconds=seconds))


def most(current: int, history: History, rules: HPAScalingRules, now: datetime) -> int:
    """The largest number the rules allow to scale up to."""
    if rules.select_policy == "Disabled":
        return current
    proposals = []
    for policy in rules.policies:
        before = _before(current, history, policy, now)
        added = policy.value if policy.type == "Pods" else math.ceil(round(before * policy.value / 100, 9))
        proposals.append(before + added)
    return max(current, (min if rules.select_policy == "Min" else max)(proposals))


def least(current: int, history: History, rules: HPAScalingRules, now: datetime) -> int:
    """The smallest number the rules allow to scale down to."""
    if rules.select_policy == "Disabled":
        return current
    proposals = []
    for policy in rules.policies:
        before = _before(current, history, policy, now)
        left = before - policy.value if policy.type == "Pods" else math.floor(before * (100 - policy.value) / 100)
        proposals.append(left)
    return min(current, (max if rules.select_policy == "Min" else min)(proposals))


def _before(current: int, history: History, policy: HPAScalingPolicy, now: datetime) -> int:
    """The number of replicas at the beginning of the policy's period."""
    added = _changed(history.ups, policy.period_seconds, now)
    removed = _changed(history.downs, policy.period_seconds, now)
    return current - added + removed


def limit(
    wanted: int,
    current: int,
    bounds: tuple[int, int],
    history: History,
    rules: tuple[HPAScalingRules, HPAScalingRules] | None,
    now: datetime,
) -> tuple[int, Outcome]:
    """The number of replicas between what the spec allows, not faster than allowed. `rules` None: the old ones."""
    lower, upper = bounds
    if rules is None:
        top, bottom = max(2 * current, 4), 0
    else:
        top, bottom = most(current, history, rules[0], now), least(current, history, rules[1], now)
    if wanted > current and wanted > min(top, upper):
        if top < upper:
            return top, Outcome(
                "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
            )
        return upper, Outcome("TooManyReplicas", "the desired replica count is more than the maximum replica count")
    if wanted < current and wanted < max(bottom, lower):
        if bottom > lower:
            return bottom, Outcome(
                "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
            )
        return lower, Outcome("TooFewReplicas", "the desired replica count is less than the minimum replica count")
    if wanted > upper:
        return upper, Outcome("TooManyReplicas", "the desired replica count is more than the maximum replica count")
    if wanted < lower:
        return lower, Outcome("TooFewReplicas", "the desired replica count is less than the minimum replica count")
    return wanted, Outcome("DesiredWithinRange", "the desired count is within the acceptable range")


def record(history: History, before: int, after: int, now: datetime) -> None:
    """Remember a change of scale."""
    if after > before:
        history.ups.append((now, after - before))
    elif after < before:
        history.downs.append((now, before - after))


def longest(rules: Sequence[HPAScalingRules]) -> timedelta:
    """How far back the rules look."""
    periods = [policy.period_seconds for one in rules for policy in one.policies]
    windows = [one.stabilization_window_seconds or 0 for one in rules]
    return timedelta(seconds=max([*periods, *windows, 0]))
