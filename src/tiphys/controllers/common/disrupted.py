"""Marks a pod that is about to be taken away: who took it, and why.

https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tiphys.api.core.v1 import Pod
from tiphys.client import Client, PatchType, key_of
from tiphys.machinery.time import format_time


async def mark_disrupted(
    client: Client, pod: Pod, reason: str, message: str, now: datetime, *, phase: str = ""
) -> None:
    """Put the DisruptionTarget condition on exactly this pod, and a phase if one is given. Raises NotFoundError.

    A patch, because that is all the roles of those who evict allow.
    """
    condition: dict[str, Any] = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": format_time(now),
    }
    if pod.metadata.generation:
        condition["observedGeneration"] = pod.metadata.generation
    status: dict[str, Any] = {"conditions": [condition]}
    if phase:
        status["phase"] = phase
    patch = {"metadata": {"uid": pod.metadata.uid}, "status": status}
    await client.patch(Pod, key_of(pod), patch, patch_type=PatchType.STRATEGIC, subresource="status")
