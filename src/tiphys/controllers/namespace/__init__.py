"""Empties and removes namespaces that are being deleted.

`content.py` deletes what is in them, whatever kinds the server has; `conditions.py` words what is
left; `controller.py` is the story. https://kubernetes.io/docs/tasks/administer-cluster/namespaces/
"""

from tiphys.controllers.namespace.controller import NamespaceController

__all__ = ["NamespaceController"]
