"""Keeps the status of ResourceQuotas: what a namespace uses of what it may.

Admission adds to `status.used` when something is made; here it is counted anew, which is how it
goes down again. `usage.py` counts, `controller.py` is the story.
https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

from tiphys.controllers.resourcequota.controller import ResourceQuotaController

__all__ = ["ResourceQuotaController"]
