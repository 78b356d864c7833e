"""Changes what running containers have, through the runtime."""

from __future__ import annotations

from collections.abc import Sequence

from tiphys.api.core.v1 import Pod, ResourceRequirements
from tiphys.kubelet.cgroups.tree import Limits, pod_limits
from tiphys.kubelet.containers.limits import container_resources
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.resize.plan import Change
from tiphys.machinery.quantity import Quantity


class ResizeError(Exception):
    """The resources cannot be put in force now; worded for the condition's message."""


async def check_memory(
    services: PodServices, pod: Pod, before: Limits, runtime: RuntimePod, todo: Sequence[Change]
) -> None:
    """Raise ResizeError where a memory limit would come to lie below what is in use: the kernel would kill for it.

    Only a guard: what is in use may grow between this look and the change.
    """
    shrinking = [change for change in todo if not change.restart and _shrinks(change)]
    old, new = before.memory, pod_limits(pod).memory
    pod_shrinks = new is not None and (old is None or old < 0 or new < old)
    if not shrinking and not pod_shrinks:
        return
    measured = await services.runtime.container_stats()
    used = {stats.attributes.id: stats.memory.working_set_bytes.value for stats in measured}
    for change in shrinking:
        limit, usage = _memory(change.wanted), used.get(change.running.id, 0)
        if usage >= limit:
            raise ResizeError(
                f'attempting to set container "{change.spec.name}" memory limit ({limit}) below current usage ({usage})'
            )
    if pod_shrinks and new is not None:
        restarted = {change.running.id for change in todo if change.restart}
        usage = sum(used.get(one.id, 0) for one in runtime.running if one.id not in restarted)
        if usage >= new:
            raise ResizeError(f"attempting to set pod memory limit ({new}) below current usage ({usage})")


def _shrinks(change: Change) -> bool:
    limit, before = _memory(change.wanted), _memory(change.in_force)
    return bool(limit) and (not before or limit < before)


def _memory(resources: ResourceRequirements) -> int:
    """The memory limit in bytes, 0 without one."""
    return Quantity.parse(resources.limits.get("memory", "0")).value()


async def update_container(services: PodServices, pod: Pod, change: Change) -> None:
    """Tell the runtime the container's new resources. Raises CRIError."""
    resources = container_resources(
        pod,
        change.spec,
        memory_capacity=services.node.memory_bytes,
        cfs_quota=services.config.cpu_cfs_quota,
        cfs_period=services.config.cpu_cfs_quota_period,
        unified=services.cgroups.unified,
    )
    await services.runtime.update_resources(change.running.id, resources)
