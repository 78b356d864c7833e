"""Limits of a container in the words of the OCI specification (`linux.resources`), from CRI's.

Zero in CRI means "not set". https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups
"""

from __future__ import annotations

from typing import Any

from tiphys.api.cri import api_pb2

# A privileged container may use every device; others only those they are given (the runtime adds null, zero, …).
ALL_DEVICES: dict[str, Any] = {"allow": True, "access": "rwm"}
NO_DEVICES: dict[str, Any] = {"allow": False, "access": "rwm"}


def oci_resources(
    asked: api_pb2.LinuxContainerResources, *, unified: bool, swap_accounting: bool, pids_limit: int = 0
) -> dict[str, Any]:
    """`linux.resources` without its device rules.

    `unified` is cgroup v2, the only place for `asked.unified`; `swap_accounting` tells whether the kernel has
    a limit for memory and swap together, without which that limit must not be written.
    """
    result: dict[str, Any] = {}
    cpu = _set(
        shares=asked.cpu_shares,
        quota=asked.cpu_quota,
        period=asked.cpu_period,
        cpus=asked.cpuset_cpus,
        mems=asked.cpuset_mems,
    )
    if cpu:
        result["cpu"] = cpu
    memory: dict[str, Any] = {}
    if asked.memory_limit_in_bytes:
        memory["limit"] = asked.memory_limit_in_bytes
    if asked.memory_swap_limit_in_bytes and swap_accounting:
        memory["swap"] = asked.memory_swap_limit_in_bytes
    if memory:
        result["memory"] = memory
    if pids_limit:
        result["pids"] = {"limit": pids_limit}
    if asked.hugepage_limits:
        result["hugepageLimits"] = [{"pageSize": item.page_size, "limit": item.limit} for item in asked.hugepage_limits]
    if asked.unified and unified:
        result["unified"] = dict(asked.unified)
    return result


def _set(**values: int | str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def merge(
    current: api_pb2.LinuxContainerResources, change: api_pb2.LinuxContainerResources
) -> api_pb2.LinuxContainerResources:
    """The limits in force after `change`, whose zeros leave things as they are."""
    merged = api_pb2.LinuxContainerResources()
    merged.CopyFrom(current)
    if change.hugepage_limits:
        del merged.hugepage_limits[:]
    merged.MergeFrom(change)
    return merged
