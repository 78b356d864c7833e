from __future__ import annotations

import copy
from typing import Any

from tiphys.apiserver.registry.conversions.autoscaling import HorizontalPodAutoscalerV1
from tiphys.apiserver.registry.conversions.events import EventsV1


def test_an_autoscaler_keeps_what_v1_cannot_say_in_annotations() -> None:
    v2: dict[str, Any] = {
        "metadata": {"name": "h", "annotations": {"mine": "1"}},
        "spec": {
            "maxReplicas": 3,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                },
                {
                    "type": "Resource",
                    "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
                },
            ],
            "behavior": {"scaleUp": {"selectPolicy": "Max"}},
        },
        "status": {
            "desiredReplicas": 2,
            "currentReplicas": 1,
            "currentMetrics": None,
            "conditions": [{"type": "AbleToScale"}],
        },
    }
    conversion = HorizontalPodAutoscalerV1()
    v1 = conversion.from_storage(copy.deepcopy(v2))
    assert v1["spec"] == {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}
    assert set(v1["metadata"]["annotations"]) == {
        "mine",
        "autoscaling.alpha.kubernetes.io/metrics",
        "autoscaling.alpha.kubernetes.io/behavior",
        "autoscaling.alpha.kubernetes.io/conditions",
    }
    assert conversion.to_storage(v1) == v2


def test_events_have_other_names() -> None:
    core = {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"}, "message": "m", "count": 2, "reason": "R"}
    event = EventsV1().from_storage(dict(core))
    assert event == {
        "metadata": {"name": "e"},
        "regarding": {"kind": "Pod"},
        "note": "m",
        "deprecatedCount": 2,
        "reason": "R",
    }
    assert EventsV1().to_storage(event) == core
