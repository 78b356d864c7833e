"""Requests and limits as the runtime wants them: shares, quota, bytes.

https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.pod import AnyContainer
from tiphys.kubelet.qos import oom_score_adj
from tiphys.kubelet.resources import (
    QUOTA_PERIOD,
    bounds,
    container_amounts,
    cpu_quota,
    cpu_shares,
    fully_limited,
    milli,
    pod_amounts,
    whole,
)

# On cgroup v2 the kernel kills all of a container together, so that none is left half alive.
OOM_GROUP: Final = {"memory.oom.group": "1"}


def container_resources(
    pod: Pod,
    container: AnyContainer,
    *,
    memory_capacity: int,
    cfs_quota: bool = True,
    cfs_period: timedelta = timedelta(milliseconds=100),
    unified: bool = False,
) -> cri.LinuxContainerResources:
    """The limits of one container; `unified` says that the node has cgroup v2."""
    requests, limits = container_amounts(container, "requests"), bounds(pod, container)
    requested = milli(requests) if "cpu" in requests else milli(container_amounts(container, "limits"))
    resources = cri.LinuxContainerResources(
        cpu_shares=cpu_shares(requested),
        memory_limit_in_bytes=whole(limits),
        oom_score_adj=oom_score_adj(pod, container, memory_capacity),
    )
    if cfs_quota and "cpu" in limits:
        period = int(cfs_period.total_seconds() * 1_000_000)
        resources.cpu_period = period
        resources.cpu_quota = cpu_quota(milli(limits), period)
    if unified:
        resources.unified.update(OOM_GROUP)
    return resources


def pod_resources(pod: Pod) -> cri.LinuxContainerResources:
    """The sum that the sandbox is told of, for runtimes that size it."""
    limits = pod_amounts(pod, "limits")
    resources = cri.LinuxContainerResources(cpu_shares=cpu_shares(milli(pod_amounts(pod, "requests"))))
    if fully_limited(pod, "cpu"):
        resources.cpu_period = QUOTA_PERIOD
        resources.cpu_quota = cpu_quota(milli(limits))
    if fully_limited(pod, "memory"):
        resources.memory_limit_in_bytes = whole(limits)
    return resources
