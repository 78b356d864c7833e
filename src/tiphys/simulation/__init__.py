"""Simulated nodes and pods: objects that behave in the API as if machines stood behind them.

    nodes.py   the Node objects, their leases, and nodes that are lost
    pods.py    pods bound to them: started, ready, ended, restarted, deleted
    life.py    what a pod does next, as a function of the pod alone
    views.py   the few fields of pods that matter here

A simulated node is any Node with the label `simulation.tiphys.dev/simulated: "true"`: those this makes, and those a
user makes with a size and labels of their own. Nothing is remembered outside the API: a restart changes nothing.
"""

from tiphys.simulation.nodes import NodeTemplate
from tiphys.simulation.simulator import Simulator

__all__ = ["NodeTemplate", "Simulator"]
