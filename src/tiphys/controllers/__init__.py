"""kube-controller-manager's controllers: a file or a folder each, named as upstream names them.

`manager.py` has the table. None of them knows another; they meet only through the API.
"""

from tiphys.controllers.common.context import Options
from tiphys.controllers.manager import CONTROLLERS, ControllerManager

__all__ = ["CONTROLLERS", "ControllerManager", "Options"]
