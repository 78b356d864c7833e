"""Requests and limits of pods, and their form in cgroups and CRI.

A pod counts as the sum of its containers and sidecars, or as its largest init container beside the
sidecars started before it, whichever is more
(https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import AnyContainer, is_sidecar
from tiphys.machinery.quantity import Quantity

SHARES_PER_CPU: Final = 1024
MIN_SHARES: Final = 2
MAX_SHARES: Final = 262144
QUOTA_PERIOD: Final = 100_000  # µs
MIN_QUOTA: Final = 1_000  # µs; the kernel refuses less

Kind = Literal["requests", "limits"]
Amounts = dict[str, Quantity]


def is_extended_resource(name: str) -> bool:
    """Whether a resource is not Kubernetes' own: it has a domain, and not kubernetes.io."""
    return "/" in name and "kubernetes.io/" not in name


def container_amounts(container: AnyContainer, kind: Kind) -> Amounts:
    """The requests or limits of one container."""
    resources = container.resources
    if resources is None:
        return {}
    amounts: Mapping[str, str] = resources.requests if kind == "requests" else resources.limits
    return {name: Quantity.parse(value) for name, value in amounts.items()}


def bounds(pod: Pod, container: AnyContainer) -> Amounts:
    """The limits of a container, or the pod's own for what it has none of, which bound it too (KEP-2837)."""
    own = container_amounts(container, "limits")
    level = pod.spec.resources.limits if pod.spec.resources is not None else {}
    return {name: Quantity.parse(level[name]) for name in ("cpu", "memory") if name in level} | own


def pod_amounts(pod: Pod, kind: Kind, *, overhead: bool = True) -> Amounts:
    """The requests or limits of the whole pod, by resource name."""
    total: Amounts = {}
    for container in pod.spec.containers:
        _add(total, container_amounts(container, kind))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in pod.spec.init_containers:
        amounts = container_amounts(container, kind)
        if is_sidecar(container):
            _add(sidecars, amounts)
            _raise_to(peak, sidecars)
        else:
            beside = dict(sidecars)
            _add(beside, amounts)
            _raise_to(peak, beside)
    _add(total, sidecars)
    _raise_to(total, peak)
    if pod.spec.resources is not None:
        level = pod.spec.resources.requests if kind == "requests" else pod.spec.resources.limits
        total.update({name: Quantity.parse(value) for name, value in level.items()})
    if overhead:
        extra = {name: Quantity.parse(value) for name, value in pod.spec.overhead.items()}
        # An unlimited pod stays unlimited: overhead raises limits that exist.
        _add(total, extra if kind == "requests" else {name: q for name, q in extra.items() if name in total})
    return total


def fully_limited(pod: Pod, resource: str) -> bool:
    """Whether every container has a limit of `resource`, so that the pod's cgroup can have one too."""
    if pod.spec.resources is not None and resource in pod.spec.resources.limits:
        return True
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    return all(container_amounts(c, "limits").get(resource, _ZERO) != _ZERO for c in containers)


_ZERO: Final = Quantity.parse("0")


def cpu_shares(milli: int) -> int:
    """`cpu.shares` of a request in thousandths of a CPU; without a request the kernel's least."""
    return MIN_SHARES if milli == 0 else max(MIN_SHARES, min(MAX_SHARES, milli * SHARES_PER_CPU // 1000))


def cpu_quota(milli: int, period: int = QUOTA_PERIOD) -> int:
    """`cpu.cfs_quota_us` of a limit in thousandths of a CPU; no limit is −1."""
    return -1 if milli == 0 else max(MIN_QUOTA, milli * period // 1000)


def cpu_weight(shares: int) -> int:
    """cgroup v2 `cpu.weight` (1…10000) of v1 shares (2…262144), KEP-2254's line."""
    return 1 + ((shares - MIN_SHARES) * 9999) // (MAX_SHARES - MIN_SHARES)


def milli(amounts: Amounts, resource: str = "cpu") -> int:
    return amounts[resource].milli_value() if resource in amounts else 0


def whole(amounts: Amounts, resource: str = "memory") -> int:
    return amounts[resource].value() if resource in amounts else 0


def _add(total: Amounts, more: Mapping[str, Quantity]) -> None:
    for name, amount in more.items():
        total[name] = total[name] + amount if name in total else amount


def _raise_to(total: Amounts, least: Mapping[str, Quantity]) -> None:
    for name, amount in least.items():
        if name not in total or total[name] < amount:
            total[name] = amount
