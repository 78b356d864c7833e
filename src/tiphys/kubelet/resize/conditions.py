"""How a resize shows: the conditions PodResizePending and PodResizeInProgress, and the words of its events.

Both are only there while they are true (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions).
"""

from __future__ import annotations

import json
from typing import Any, Final

from tiphys.api.core.v1 import Pod, PodCondition, ResourceRequirements
from tiphys.kubelet.resize.allocation import allocation_of
from tiphys.kubelet.resize.feasibility import Pending
from tiphys.kubelet.status.conditions import RESIZE_IN_PROGRESS, RESIZE_PENDING

ERROR: Final = "Error"


def pending_condition(pending: Pending, generation: int | None) -> PodCondition:
    return PodCondition(
        type=RESIZE_PENDING,
        status="True",
        reason=pending.reason,
        message=pending.message,
        observed_generation=generation,
    )


def progress_condition(error: str, generation: int | None) -> PodCondition:
    """`error` is why the granted resources could not be put in force yet, "" while that is under way."""
    return PodCondition(
        type=RESIZE_IN_PROGRESS,
        status="True",
        reason=ERROR if error else "",
        message=error,
        observed_generation=generation,
    )


def event_details(pod: Pod, generation: int | None, error: str = "") -> str:
    """The resources in question, as the events of a resize carry them."""
    details: dict[str, Any] = {}
    asked = allocation_of(pod)
    if asked.pod is not None:
        details["podResources"] = _resources(asked.pod)
    inits = {container.name for container in pod.spec.init_containers}
    for key, wanted in (("initContainers", True), ("containers", False)):
        listed = [
            {"name": name, "resources": _resources(resources)}
            for name, resources in asked.containers.items()
            if (name in inits) is wanted
        ]
        if listed:
            details[key] = listed
    details["generation"] = generation or 0
    if error:
        details["error"] = error
    return json.dumps(details, separators=(",", ":"))


def _resources(resources: ResourceRequirements) -> dict[str, dict[str, str]]:
    parts = {"limits": dict(resources.limits), "requests": dict(resources.requests)}
    return {name: amounts for name, amounts in parts.items() if amounts}
