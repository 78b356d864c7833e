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

Object = dict[str, Any]

PREFIX: Final = "autoscaling.alpha.kubernetes.io/"
METRICS: Final = PREFIX + "metrics"
BEHAVIOR: Final = PREFIX + "behavior"
CONDITIONS: Final = PREFIX + "conditions"
CURRENT_METRICS: Final = PREFIX + "current-metrics"


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


class HorizontalPodAutoscalerV1:
    """See the module."""

    field_labels: Mapping[str, str] = {}

    def to_storage(self, obj: Object) -> Object:
        """To autoscaling/v2."""
        annotations = dict(obj.get("metadata", {}).get("annotations") or {})
        spec = obj.setdefault("spec", {})
        metrics = _loads(annotations.pop(METRICS, "null")) or []
        percent = spec.pop("targetCPUUtilizationPercentage", None)
        if percent is not None:
            metrics = [_utilization_metric(percent), *metrics]
        if metrics:
            spec["metrics"] = metrics
        behavior = _loads(annotations.pop(BEHAVIOR, "null"))
        if behavior:
            spec["behavior"] = behavior
        self._status_to_storage(obj, annotations)
        if annotations:
            obj["metadata"]["annotations"] = annotations
        else:
            obj.get("metadata", {}).pop("annotations", None)
        return obj

    @staticmethod
    def _status_to_storage(obj: Object, annotations: dict[str, str]) -> None:
        status = obj.setdefault("status", {})
        current = _loads(annotations.pop(CURRENT_METRICS, "null")) or []
        percent = status.pop("currentCPUUtilizationPercentage", None)
        if percent is not None:
            resource = {"name": "cpu", "current": {"averageUtilization": percent}}
            current = [{"type": "Resource", "resource": resource}, *current]
        status["currentMetrics"] = current or None
        conditions = _loads(annotations.pop(CONDITIONS, "null"))
        if conditions:
            status["conditions"] = conditions
        if not status.get("currentReplicas"):
            status.pop("currentReplicas", None)

    def from_storage(self, obj: Object) -> Object:
        """To autoscaling/v1."""
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
            annotations[METRICS] = orjson.dumps(other).decode()
        behavior = spec.pop("behavior", None)
        if behavior:
            annotations[BEHAVIOR] = orjson.dumps(behavior).decode()
        self._status_from_storage(obj.setdefault("status", {}), annotations)
        if annotations:
            metadata["annotations"] = annotations
        return obj

    @staticmethod
    def _status_from_storage(status: Object, annotations: dict[str, str]) -> None:
        other: list[Object] = []
        for metric in status.pop("currentMetrics", None) or ():
            resource = metric.get("resource") or {}
            percent = (resource.get("current") or {}).get("averageUtilization")
            if metric.get("type") == "Resource" and resource.get("name") == "cpu" and percent is not None:
                status["currentCPUUtilizationPercentage"] = percent
            else:
                other.append(metric)
        if other:
            annotations[CURRENT_METRICS] = orjson.dumps(other).decode()
        conditions = status.pop("conditions", None)
        if conditions:
            annotations[CONDITIONS] = orjson.dumps(conditions).decode()
