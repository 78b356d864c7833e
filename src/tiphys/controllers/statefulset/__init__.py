"""StatefulSets: pods with a number, a name and volumes that stay theirs.

`identity.py` makes pods and claims, `plan.py` decides what happens next, `controller.py` does it.
https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/
"""

from tiphys.controllers.statefulset.controller import StatefulSetController

__all__ = ["StatefulSetController"]
