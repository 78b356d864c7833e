"""One look at one autoscaler: measure, propose, stabilize, limit, scale, and say what was done."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.autoscaling.v2 import (
    HorizontalPodAutoscaler,
    HorizontalPodAutoscalerStatus,
    HPAScalingRules,
    MetricSpec,
    MetricTarget,
    ResourceMetricSource,
)
from tiphys.api.core.v1 import Pod
from tiphys.client import NORMAL, WARNING, ApiConnectionError, EventRecorder, Lister
from tiphys.controllers.common.scales import Scale, Targets, UnknownKind
from tiphys.controllers.podautoscaler import behavior
from tiphys.controllers.podautoscaler.behavior import History
from tiphys.controllers.podautoscaler.conditions import (
    ABLE_TO_SCALE,
    SCALING_ACTIVE,
    SCALING_LIMITED,
    Outcome,
    with_condition,
)
from tiphys.controllers.podautoscaler.proposals import Failure, Proposal, Proposer, Situation
from tiphys.controllers.podautoscaler.replicas import Limits
from tiphys.machinery.errors import StatusError
from tiphys.machinery.quantity import parse_cached
from tiphys.machinery.selectors import LabelSelector

CPU: Final = MetricSpec(
    type="Resource",
    resource=ResourceMetricSource(name="cpu", target=MetricTarget(type="Utilization", average_utilization=80)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every round works with."""

    pods: Lister[Pod]
    targets: Targets
    proposer: Proposer
    recorder: EventRecorder
    tolerance: float
    downscale_window: timedelta


class Stopped(Exception):
    """The round ends here; the status says why."""


class Round:
    """`run` once."""

    def __init__(self, tools: Tools, autoscaler: HorizontalPodAutoscaler, history: History, now: datetime) -> None:
        self._tools = tools
        self._autoscaler = autoscaler
        self._history = history
        self._now = now
        self._status = replace(autoscaler.status, observed_generation=autoscaler.metadata.generation)

    async def run(self) -> HorizontalPodAutoscalerStatus:
        """Scale if need be; returns the status to write."""
        with suppress(Stopped):
            scale = await self._get_scale()
            wanted, reason = await self._wanted(scale)
            if wanted != scale.replicas:
                await self._rescale(scale, wanted, reason)
            self._status = replace(self._status, current_replicas=scale.replicas, desired_replicas=wanted)
        return self._status

    # What is, and what should be

    async def _get_scale(self) -> Scale:
        spec, namespace = self._autoscaler.spec, self._autoscaler.metadata.namespace
        target = spec.scale_target_ref
        try:
            scale = await self._tools.targets.get(namespace, target.api_version or "v1", target.kind, target.name)
        except (StatusError, UnknownKind, ApiConnectionError) as error:
            text = error.message if isinstance(error, StatusError) else str(error)
            self._warn("FailedGetScale", text)
            message = f"the HPA controller was unable to get the target's current scale: {text}"
            self._set(ABLE_TO_SCALE, False, Outcome("FailedGetScale", message))
            raise Stopped from error
        message = "the HPA controller was able to get the target's current scale"
        self._set(ABLE_TO_SCALE, True, Outcome("SucceededGetScale", message))
        return scale

    async def _wanted(self, scale: Scale) -> tuple[int, str]:
        """The number of replicas there should be, and why."""
        lower, upper = self._bounds()
        current = scale.replicas
        if current == 0 and lower != 0:
            message = "scaling is disabled since the replica count of the target is zero"
            self._set(SCALING_ACTIVE, False, Outcome("ScalingDisabled", message))
            return 0, ""
        if current > upper:
            return upper, "Current number of replicas above Spec.MaxReplicas"
        if current < lower:
            return lower, "Current number of replicas below Spec.MinReplicas"
        proposal = await self._propose(scale)
        wanted = self._follow(proposal.replicas, current)
        if wanted > current:
            return wanted, f"{proposal.metric} above target"
        return wanted, "All metrics below target"

    def _bounds(self) -> tuple[int, int]:
        spec = self._autoscaler.spec
        return 1 if spec.min_replicas is None else spec.min_replicas, spec.max_replicas

    async def _propose(self, scale: Scale) -> Proposal:
        """The largest proposal of all metrics; raises Stopped when there is none to trust."""
        if not scale.selector:
            self._warn("SelectorRequired", "selector is required")
            message = "the HPA target's scale is missing a selector"
            self._set(SCALING_ACTIVE, False, Outcome("InvalidSelector", message))
            raise Stopped
        selector = LabelSelector.parse(scale.selector)
        pods = self._tools.pods.list(self._autoscaler.metadata.namespace, selector)
        situation = Situation(self._autoscaler, scale, pods, self._limits(), self._now)
        specs = self._autoscaler.spec.metrics or (CPU,)
        found = [await self._tools.proposer.propose(situation, spec) for spec in specs]
        failures = [one for one in found if isinstance(one, Failure)]
        proposals = [one for one in found if isinstance(one, Proposal)]
        for failure in failures:
            self._warn(failure.reason, failure.message)
        best = max(proposals, key=lambda one: one.replicas, default=None)
        # With a metric missing nobody knows that fewer would do.
        if best is None or (failures and best.replicas < scale.replicas):
            first = failures[0]
            message = f"the HPA was unable to compute the replica count: {first.message}"
            self._set(SCALING_ACTIVE, False, Outcome(first.reason, message))
            text = f"invalid metrics ({len(failures)} invalid out of {len(specs)})"
            self._warn("FailedComputeMetricsReplicas", f"{text}, first error is: {first.where}{first.message}")
            self._status = replace(self._status, current_replicas=scale.replicas)
            raise Stopped
        message = f"the HPA was able to successfully calculate a replica count from {best.metric}"
        self._set(SCALING_ACTIVE, True, Outcome("ValidMetricFound", message))
        self._status = replace(self._status, current_metrics=tuple(one.status for one in proposals))
        return best

    def _limits(self) -> Limits:
        rules = self._autoscaler.spec.behavior

        def tolerance(one: HPAScalingRules | None) -> float:
            if one is None or not one.tolerance:
                return self._tools.tolerance
            return parse_cached(one.tolerance).milli_value() / 1000

        return Limits(
            up=tolerance(rules.scale_up if rules else None), down=tolerance(rules.scale_down if rules else None)
        )

    def _follow(self, proposed: int, current: int) -> int:
        """How far the proposal may be followed now."""
        given = self._autoscaler.spec.behavior
        rules = behavior.rules_of(given, self._tools.downscale_window)
        self._history.forget_before(self._now - behavior.longest(rules))
        stable, outcome = behavior.stabilize(current, proposed, self._history, *rules, self._now)
        self._set(ABLE_TO_SCALE, True, outcome)
        wanted, outcome = behavior.limit(
            stable, current, self._bounds(), self._history, rules if given is not None else None, self._now
        )
        self._set(SCALING_LIMITED, outcome.reason != "DesiredWithinRange", outcome)
        return wanted

    # Doing it

    async def _rescale(self, scale: Scale, wanted: int, reason: str) -> None:
        try:
            await self._tools.targets.set(scale, wanted)
        except (StatusError, ApiConnectionError) as error:
            text = error.message if isinstance(error, StatusError) else str(error)
            self._warn("FailedRescale", f"New size: {wanted}; reason: {reason}; error: {text}")
            message = f"the HPA controller was unable to update the target scale: {text}"
            self._set(ABLE_TO_SCALE, False, Outcome("FailedUpdateScale", message))
            self._status = replace(self._status, current_replicas=scale.replicas)
            raise Stopped from error
        message = f"the HPA controller was able to update the target scale to {wanted}"
        self._set(ABLE_TO_SCALE, True, Outcome("SucceededRescale", message))
        self._tools.recorder.event(
            self._autoscaler, NORMAL, "SuccessfulRescale", f"New size: {wanted}; reason: {reason}"
        )
        behavior.record(self._history, scale.replicas, wanted, self._now)
        self._status = replace(self._status, last_scale_time=self._now.replace(microsecond=0))

    def _warn(self, reason: str, message: str) -> None:
        self._tools.recorder.event(self._autoscaler, WARNING, reason, message)

    def _set(self, type_: str, status: bool, outcome: Outcome) -> None:
        now = self._now.replace(microsecond=0)
        self._status = replace(
            self._status, conditions=with_condition(self._status.conditions, type_, status, outcome, now)
        )
