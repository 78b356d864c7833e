"""DaemonSets: one pod on every node that fits.

`nodes.py` says where pods belong and how they get there, `rolling.py` which pods an update replaces
next, `controller.py` is the story. https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/
"""

from tiphys.controllers.daemonset.controller import DaemonSetController

__all__ = ["DaemonSetController"]
