"""One proposal for each metric of an autoscaler's spec; the largest wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tiphys.api.autoscaling.v2 import (
    ContainerResourceMetricStatus,
    ExternalMetricStatus,
    HorizontalPodAutoscaler,
    MetricIdentifier,
    MetricSpec,
    MetricStatus,
    MetricTarget,
    MetricValueStatus,
    ObjectMetricStatus,
    PodsMetricStatus,
    ResourceMetricStatus,
)
from tiphys.api.core.v1 import Pod
from tiphys.controllers.common.pods import is_ready
from tiphys.controllers.common.scales import Scale, Targets, UnknownKind
from tiphys.controllers.common.selectors import selector_of
from tiphys.controllers.podautoscaler import replicas as rules
from tiphys.controllers.podautoscaler.metrics import MetricsClient, MetricsError, Sample, milli
from tiphys.controllers.podautoscaler.replicas import Limits, Start, Wanted
from tiphys.machinery.quantity import Quantity

# The reason of the condition and the event when a metric of a type cannot be had.
FAILURES: Final = {
    "Object": ("FailedGetObjectMetric", "failed to get object metric value"),
    "Pods": ("FailedGetPodsMetric", "failed to get pods metric value"),
    "Resource": ("FailedGetResourceMetric", "failed to get {name} resource metric value"),
    "ContainerResource": ("FailedGetContainerResourceMetric", "failed to get {name} container metric value"),
    "External": ("FailedGetExternalMetric", "failed to get {name} external metric value"),
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one metric asks for."""

    replicas: int
    metric: str  # its name in messages
    status: MetricStatus


@dataclass(frozen=True, slots=True)
class Failure:
    """A metric that could not be had; `where` begins the message where several metrics are spoken of."""

    reason: str
    message: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """What every metric of one autoscaler is judged by."""

    autoscaler: HorizontalPodAutoscaler
    scale: Scale
    pods: Sequence[Pod]
    limits: Limits
    now: datetime


def quantity(thousandths: int) -> str:
    """Thousandths as quantities are written."""
    return str(Quantity.milli(thousandths))


class Proposer:
    """Asks the metrics APIs. `start`: how CPU of new pods is treated."""

    def __init__(self, metrics: MetricsClient, targets: Targets, start: Start) -> None:
        self._metrics = metrics
        self._targets = targets
        self._start = start

    async def propose(self, situation: Situation, spec: MetricSpec) -> Proposal | Failure:
        """What one metric asks for, or why it cannot be had."""
        reason, text = FAILURES.get(spec.type, ("InvalidMetricSourceType", "unknown metric source type"))
        name = _name(spec)
        try:
            match spec.type:
                case "Resource" if spec.resource is not None:
                    return await self._resource(situation, spec.resource.name, spec.resource.target, "")
                case "ContainerResource" if spec.container_resource is not None:
                    source = spec.container_resource
                    return await self._resource(situation, source.name, source.target, source.container)
                case "Pods" if spec.pods is not None:
                    return await self._pods(situation, spec.pods.metric, spec.pods.target)
                case "Object" if spec.object is not None:
                    return await self._object(situation, spec)
                case "External" if spec.external is not None:
                    return await self._external(situation, spec.external.metric, spec.external.target)
        except (MetricsError, UnknownKind) as error:
            return Failure(reason, str(error), f"{text.format(name=name)}: ")
        return Failure("InvalidMetricSourceType", f'unknown metric source type "{spec.type}"')

    async def _resource(self, situation: Situation, name: str, target: MetricTarget, container: str) -> Proposal:
        namespace = situation.autoscaler.metadata.namespace
        try:
            samples = await self._measured(name, namespace, situation.scale.selector, container)
            start = self._start if name == "cpu" else None
            wanted, note = self._judge(situation, target, samples, start, (name, container))
        except MetricsError as error:
            what = "usage" if target.average_value else "utilization"
            raise MetricsError(f"failed to get {name} {what}: {error}") from error
        value = MetricValueStatus(average_value=quantity(wanted.average), average_utilization=wanted.utilization)
        if container:
            found = ContainerResourceMetricStatus(name=name, container=container, current=value)
            status = MetricStatus(type="ContainerResource", container_resource=found)
            return Proposal(wanted.replicas, f"{name} container resource{note}", status)
        status = MetricStatus(type="Resource", resource=ResourceMetricStatus(name=name, current=value))
        return Proposal(wanted.replicas, f"{name} resource{note}", status)

    async def _measured(self, name: str, namespace: str, selector: str, container: str) -> dict[str, Sample]:
        try:
            return await self._metrics.resource(name, namespace, selector, container)
        except MetricsError as error:
            raise MetricsError(f"unable to get metrics for resource {name}: {error}") from error

    def _judge(
        self,
        situation: Situation,
        target: MetricTarget,
        samples: dict[str, Sample],
        start: Start | None,
        resource: tuple[str, str] | None,
    ) -> tuple[Wanted, str]:
        groups = rules.group(situation.pods, samples, situation.now, start)
        values = {name: sample.value for name, sample in samples.items()}
        current = situation.scale.replicas
        if resource is None or target.average_value:
            wanted = rules.by_average(current, milli(target.average_value), values, groups, situation.limits)
            return wanted, ""
        requested = rules.requests(situation.pods, *resource)
        percent = target.average_utilization or 0
        wanted = rules.by_utilization(current, percent, values, groups, requested, situation.limits)
        return wanted, " utilization (percentage of request)"

    async def _pods(self, situation: Situation, metric: MetricIdentifier, target: MetricTarget) -> Proposal:
        namespace, selector = situation.autoscaler.metadata.namespace, situation.scale.selector
        try:
            samples = await self._metrics.pods(metric.name, namespace, selector, _selector(metric))
        except MetricsError as error:
            raise MetricsError(f"unable to get metric {metric.name}: {error}") from error
        wanted, _ = self._judge(situation, target, samples, None, None)
        current = MetricValueStatus(average_value=quantity(wanted.average))
        status = MetricStatus(type="Pods", pods=PodsMetricStatus(metric=metric, current=current))
        return Proposal(wanted.replicas, f"pods metric {metric.name}", status)

    async def _object(self, situation: Situation, spec: MetricSpec) -> Proposal:
        source = spec.object
        assert source is not None
        described, metric = source.described_object, source.metric
        plural = await self._targets.plural(described.api_version or "v1", described.kind)
        group, _, _ = described.api_version.rpartition("/")
        where = f"{plural}.{group}" if group else plural
        namespace = situation.autoscaler.metadata.namespace
        try:
            usage = await self._metrics.object(metric.name, namespace, described, where, _selector(metric))
        except MetricsError as error:
            place = f"{described.kind} on {namespace} {described.name}"
            raise MetricsError(f"unable to get metric {metric.name}: {place}/{error}") from error
        wanted, current = self._one_number(situation, usage, source.target)
        status = ObjectMetricStatus(metric=metric, described_object=described, current=current)
        return Proposal(wanted, f"{described.kind} metric {metric.name}", MetricStatus(type="Object", object=status))

    async def _external(self, situation: Situation, metric: MetricIdentifier, target: MetricTarget) -> Proposal:
        namespace = situation.autoscaler.metadata.namespace
        try:
            usage = await self._metrics.external(metric.name, namespace, _selector(metric))
        except MetricsError as error:
            what = f"{metric.name} external metric" if target.average_value else f"external metric {metric.name}"
            text = f"failed to get {what}: unable to get external metric {namespace}/{metric.name}"
            raise MetricsError(f"{text}: {error}") from error
        wanted, current = self._one_number(situation, usage, target)
        status = ExternalMetricStatus(metric=metric, current=current)
        text = f"external metric {metric.name}({_selector(metric) or 'nil'})"
        return Proposal(wanted, text, MetricStatus(type="External", external=status))

    def _one_number(self, situation: Situation, usage: int, target: MetricTarget) -> tuple[int, MetricValueStatus]:
        current, running = situation.scale.replicas, situation.scale.running
        if target.average_value:
            wanted = rules.by_value_per_pod(running, usage, milli(target.average_value), situation.limits)
            average = -(-usage // running) if running else usage
            return wanted, MetricValueStatus(average_value=quantity(average))
        ready = sum(pod.status.phase == "Running" and is_ready(pod) for pod in situation.pods)
        wanted = rules.by_value(current, ready, usage, milli(target.value), situation.limits)
        return wanted, MetricValueStatus(value=quantity(usage))


def _name(spec: MetricSpec) -> str:
    source = spec.resource or spec.container_resource
    if source is not None:
        return source.name
    return spec.external.metric.name if spec.external is not None else ""


def _selector(metric: MetricIdentifier) -> str:
    found = selector_of(metric.selector)
    return "" if found is None else str(found)
