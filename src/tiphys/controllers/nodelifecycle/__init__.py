"""Watches the heartbeats of nodes and taints those that stop.

`health.py` judges one node, `zones.py` how fast nodes of a zone may be evicted, `controller.py` is
the story. https://kubernetes.io/docs/concepts/architecture/nodes/#node-heartbeats
"""

from tiphys.controllers.nodelifecycle.controller import NodeLifecycleController

__all__ = ["NodeLifecycleController"]
