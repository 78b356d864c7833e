"""autoscaling/v1 over autoscaling/v2: annotations hold what kube-apiserver v1.36 writes, and nothing gets lost."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tiphys.apiserver.registry.conversions.autoscaling import (
    BEHAVIOR,
    CURRENT_METRICS,
    METRICS,
    HorizontalPodAutoscalerV1,
)
from tiphys.apiserver.registry.conversions.autoscaling_metrics import metric_from_v1, metric_to_v1

Object = dict[str, Any]
ABOUT = {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}
SELECTOR = {"matchLabels": {"a": "b"}}


def cpu(percent: int) -> Object:
    return {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}},
    }


METRIC_PAIRS: list[tuple[Object, Object]] = [
    (
        {
            "type": "Resource",
            "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 5}},
        },
        {"type": "Resource", "resource": {"name": "memory", "targetAverageUtilization": 5}},
    ),
    (
        {
            "type": "ContainerResource",
            "containerResource": {
                "name": "cpu",
                "container": "c",
                "target": {"type": "AverageValue", "averageValue": "1"},
            },
        },
        {
            "type": "ContainerResource",
            "containerResource": {"name": "cpu", "targetAverageValue": "1", "container": "c"},
        },
    ),
    (
        {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
        {"type": "Pods", "pods": {"metricName": "m", "targetAverageValue": "1k"}},
    ),
    (
        {
            "type": "External",
            "external": {"metric": {"name": "m", "selector": SELECTOR}, "target": {"type": "Value", "value": "5"}},
        },
        {"type": "External", "external": {"metricName": "m", "metricSelector": SELECTOR, "targetValue": "5"}},
    ),
    (
        {
            "type": "Object",
            "object": {
                "metric": {"name": "m"},
                "describedObject": ABOUT,
                "target": {"type": "Value", "value": "3"},
            },
        },
        {"type": "Object", "object": {"target": ABOUT, "metricName": "m", "targetValue": "3"}},
    ),
]


@pytest.mark.parametrize(("new", "old"), METRIC_PAIRS, ids=[new["type"] for new, _ in METRIC_PAIRS])
def test_metrics(new: Object, old: Object) -> None:
    assert metric_to_v1(new) == old
    assert metric_from_v1(old) == new


def test_metrics_of_a_status() -> None:
    new: Object = {
        "type": "Resource",
        "resource": {"name": "cpu", "current": {"averageUtilization": 1, "averageValue": "9m"}},
    }
    old = {"type": "Resource", "resource": {"name": "cpu", "currentAverageUtilization": 1, "currentAverageValue": "9m"}}
    assert metric_to_v1(new, current=True) == old
    assert metric_from_v1(old, current=True)["resource"]["current"] == new["resource"]["current"]


def test_an_autoscaler_survives_an_old_client() -> None:
    behavior = {"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}}
    current = [
        {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 1, "averageValue": "1"}}}
    ]
    stored = {
        "metadata": {"name": "h", "annotations": {"x": "y"}},
        "spec": {"maxReplicas": 3, "metrics": [cpu(50), METRIC_PAIRS[0][0]], "behavior": behavior},
        "status": {"desiredReplicas": 1, "currentMetrics": current},
    }
    before = copy.deepcopy(stored)
    shown = HorizontalPodAutoscalerV1().from_storage(stored)
    assert stored == before
    assert shown["spec"] == {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}
    assert shown["status"]["currentCPUUtilizationPercentage"] == 1
    annotations = shown["metadata"]["annotations"]
    assert json.loads(annotations[METRICS]) == [METRIC_PAIRS[0][1]]
    assert len(json.loads(annotations[CURRENT_METRICS])) == 1
    assert json.loads(annotations[BEHAVIOR]) == {
        "ScaleUp": {
            "StabilizationWindowSeconds": None,
            "SelectPolicy": "Max",
            "Policies": [{"Type": "Pods", "Value": 4, "PeriodSeconds": 15}],
            "Tolerance": None,
        },
        "ScaleDown": None,
    }
    again = copy.deepcopy(shown)
    assert HorizontalPodAutoscalerV1().to_storage(shown) == stored
    assert shown == again


@pytest.mark.parametrize("text", ["", "bad", "{}", "null", "5"])
def test_annotations_written_by_hand_that_are_none(text: str) -> None:
    annotations = {METRICS: text, BEHAVIOR: text, CURRENT_METRICS: text}
    stored = HorizontalPodAutoscalerV1().to_storage({"metadata": {"annotations": annotations}, "spec": {}})
    assert stored == {"metadata": {}, "spec": {}, "status": {"currentMetrics": None}}
