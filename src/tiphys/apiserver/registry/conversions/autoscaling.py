"""autoscaling/v1 HorizontalPodAutoscaler over the stored autoscaling/v2.

v1 knows one metric, the CPU utilization. What else v2 holds travels in annotations, so that a v1 client that reads,
changes and writes back loses nothing:

    autoscaling.alpha.kubernetes.io/{metrics,behavior,conditions,current-metrics}   JSON

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v1/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from tiphys.apiserver.registry.conversions.autoscaling_metrics import (
    behavior_from_v1,
    behavior_to_v1,
    metric_from_v1,
    metric_to_v1,
)

Object = dict[str, Any]

PREFIX: Final = "autoscaling.alpha.kubernetes.io/"
METRICS: Final = PREFIX + "metrics"
BEHAVIOR: Final = PREFIX + "behavior"
CONDITIONS: Final = PREFIX + "conditions"
CURRENT_METRICS: Final = PREFIX + "current-metrics"
OURS: Final = frozenset({METRICS, BEHAVIOR, CONDITIONS, CURRENT_METRICS})


def _is_cpu_utilization(metric: Object) -> bool:
    target = (metric.get("resource") or {}).get("target") or {}
    return (
        metric.get("type") == "Resource"
        and (metric.get("resource") or {}).get("name") == "cpu"
        and target.get("averageUtilization") is not None
    )


def _utilization_metric(percent: int) -> Object:
    target = {"type": "Utilization", "averageUtilization": percent}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def _loads(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return None  # somebody wrote the annotation by hand: ignored, as upstream does


def _items(text: str) -> list[Any]:
    """The list of an annotation; none when it is something else."""
    found = _loads(text)
    return found if isinstance(found, list) else []


def _with_own_parts(obj: Object) -> Object:
    """A copy whose metadata, spec and status may be changed: patches compare with what they began with."""
    own = {name: dict(obj.get(name) or {}) for name in ("metadata", "spec", "status") if obj.get(name) is not None}
    return {**obj, **own}


def drop_v1_annotations(obj: Object) -> None:
    """Objects as they are stored have no annotations that stand for fields, whoever wrote them."""
    metadata = obj.get("metadata") or {}
    annotations = metadata.get("annotations")
    if annotations:
        metadata["annotations"] = {key: value for key, value in annotations.items() if key not in OURS}
        if not metadata["annotations"]:
            del metadata["annotations"]


class HorizontalPodAutoscalerV1:
    """See the module."""

    field_labels: Mapping[str, str] = {}

    def to_storage(self, obj: Object) -> Object:
        """To autoscaling/v2. A new object, whose parts may be those of `obj` where they stay the same."""
        obj = _with_own_parts(obj)
        annotations = dict(obj.get("metadata", {}).get("annotations") or {})
        spec = obj.setdefault("spec", {})
        metrics = [metric_from_v1(one) for one in _items(annotations.pop(METRICS, ""))]
        percent = spec.pop("targetCPUUtilizationPercentage", None)
        if percent is not None:
            metrics = [_utilization_metric(percent), *metrics]
        if metrics:
            spec["metrics"] = metrics
        behavior = _loads(annotations.pop(BEHAVIOR, "null"))
        if behavior and isinstance(behavior, dict):
            spec["behavior"] = behavior_from_v1(behavior)
        self._status_to_storage(obj, annotations)
        if annotations:
            obj["metadata"]["annotations"] = annotations
        else:
            obj.get("metadata", {}).pop("annotations", None)
        return obj

    @staticmethod
    def _status_to_storage(obj: Object, annotations: dict[str, str]) -> None:
        status = obj.setdefault("status", {})
        current = [metric_from_v1(one, current=True) for one in _items(annotations.pop(CURRENT_METRICS, ""))]
        percent = status.pop("currentCPUUtilizationPercentage", None)
        if percent is not None and not current:  # else it is among them
            resource = {"name": "cpu", "current": {"averageUtilization": percent}}
            current = [{"type": "Resource", "resource": resource}]
        status["currentMetrics"] = current or None
        conditions = _items(annotations.pop(CONDITIONS, ""))
        if conditions:
            status["conditions"] = conditions
        if not status.get("currentReplicas"):
            status.pop("currentReplicas", None)

    def from_storage(self, obj: Object) -> Object:
        """To autoscaling/v1. A new object, whose parts may be those of `obj` where they stay the same."""
        obj = _with_own_parts(obj)
        metadata = obj.setdefault("metadata", {})
        annotations = dict(metadata.get("annotations") or {})
        spec = obj.setdefault("spec", {})
        other: list[Object] = []
        for metric in spec.pop("metrics", None) or ():
            if _is_cpu_utilization(metric) and "targetCPUUtilizationPercentage" not in spec:
                spec["targetCPUUtilizationPercentage"] = metric["resource"]["target"]["averageUtilization"]
            else:
                other.append(metric)
        if other:
            annotations[METRICS] = orjson.dumps([metric_to_v1(one) for one in other]).decode()
        behavior = spec.pop("behavior", None)
        if behavior:
            annotations[BEHAVIOR] = orjson.dumps(behavior_to_v1(behavior)).decode()
        self._status_from_storage(obj.setdefault("status", {}), annotations)
        if annotations:
            metadata["annotations"] = annotations
        return obj

    @staticmethod
    def _status_from_storage(status: Object, annotations: dict[str, str]) -> None:
        metrics = status.pop("currentMetrics", None) or ()
        for metric in metrics:
            resource = metric.get("resource") or {}
            percent = (resource.get("current") or {}).get("averageUtilization")
            if metric.get("type") == "Resource" and resource.get("name") == "cpu" and percent is not None:
                status["currentCPUUtilizationPercentage"] = percent
        if metrics:
            shown = [metric_to_v1(metric, current=True) for metric in metrics]
            annotations[CURRENT_METRICS] = orjson.dumps(shown).decode()
        conditions = status.pop("conditions", None)
        if conditions:
            annotations[CONDITIONS] = orjson.dumps(conditions).decode()
