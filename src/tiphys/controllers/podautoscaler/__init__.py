"""HorizontalPodAutoscaler: as many replicas as the load needs.

    metrics.py      what pods, objects and the outside world measure: the three metrics APIs
    replicas.py     how many replicas a measurement asks for: pure
    behavior.py     how fast that may be followed: stabilization and scaling policies, pure
    proposals.py    one proposal a metric of the spec, and the largest of them
    conditions.py   what the status says: pure
    target.py       the scale subresource of what is scaled
    round.py        one look at one autoscaler
    controller.py   the controller `horizontal-pod-autoscaler-controller`

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
"""

from tiphys.controllers.podautoscaler.controller import HorizontalPodAutoscalerController

__all__ = ["HorizontalPodAutoscalerController"]
