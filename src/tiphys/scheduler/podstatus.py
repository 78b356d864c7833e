"""What a pod's status says of its scheduling: the PodScheduled condition and the nominated node."""

from __future__ import annotations

from typing import Any, Final

from tiphys.api.core.v1 import Pod
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import ApiConnectionError, Client, PatchType, key_of
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.time import format_time

log = get_logger(__name__)

CONDITION: Final = "PodScheduled"
REASON_UNSCHEDULABLE: Final = "Unschedulable"
REASON_GATED: Final = "SchedulingGated"
REASON_ERROR: Final = "SchedulerError"


def not_scheduled_patch(pod: Pod, reason: str, message: str, nominated: str | None, now: str) -> dict[str, Any] | None:
    """The change of status that says why; None when it says so already.

    `nominated` None leaves a nomination as it is; "" clears it.
    """
    status: dict[str, Any] = {}
    current = next((condition for condition in pod.status.conditions if condition.type == CONDITION), None)
    if current is None or (current.status, current.reason, current.message) != ("False", reason, message):
        condition: dict[str, Any] = {"type": CONDITION, "status": "False", "reason": reason, "message": message}
        if pod.metadata.generation is not None:
            condition["observedGeneration"] = pod.metadata.generation
        if current is None or current.status != "False":
            condition["lastTransitionTime"] = now
        status["conditions"] = [condition]
    if nominated is not None and nominated != pod.status.nominated_node_name:
        status["nominatedNodeName"] = nominated or None
    return {"metadata": {"uid": pod.metadata.uid}, "status": status} if status else None


class PodStatusWriter:
    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def expected(self, pod: Pod, node: str) -> bool:
        """Say where the pod is about to be bound, for whoever else plans with nodes; False when that failed.

        https://kep.k8s.io/5278
        """
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"nominatedNodeName": node}}
        try:
            await self._client.patch(Pod, key_of(pod), patch, patch_type=PatchType.STRATEGIC, subresource="status")
        except (StatusError, ApiConnectionError) as error:
            log.warning("writing the expected node of %s: %s", key_of(pod), error)
            return False
        return True

    async def not_scheduled(self, pod: Pod, reason: str, message: str, nominated: str | None) -> None:
        """Write why a pod is not scheduled. A failure is logged: the next attempt writes again."""
        patch = not_scheduled_patch(pod, reason, message, nominated, format_time(self._clock.now()))
        if patch is None:
            return
        try:
            await self._client.patch(Pod, key_of(pod), patch, patch_type=PatchType.STRATEGIC, subresource="status")
        except NotFoundError:
            return
        except (StatusError, ApiConnectionError) as error:
            log.warning("writing the status of %s: %s", key_of(pod), error)
