"""Devices that somebody makes ready once they are chosen, attached over a fabric for instance (KEP-5007).

The pod is bound when all `bindingConditions` of its devices are true in the claim's status.devices; when one of the
`bindingFailureConditions` is, or time runs out, the devices are given back and the pod looks for others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tiphys.api.resource.v1 import AllocatedDeviceStatus, DeviceRequestAllocationResult, ResourceClaim


@dataclass(frozen=True, slots=True)
class Readiness:
    """`missing`: conditions not true yet; `failure`: why the devices will never be ready, "" while they may."""

    missing: tuple[str, ...] = ()
    failure: str = ""

    @property
    def is_ready(self) -> bool:
        return not self.missing and not self.failure


def readiness(claim: ResourceClaim, now: datetime, patience: timedelta) -> Readiness:
    """Of the devices a claim holds; `patience` counts from their allocation."""
    allocation = claim.status.allocation
    if allocation is None or allocation.devices is None:
        return Readiness(failure=f"claim {claim.metadata.name} got deallocated in the meantime")
    missing: list[str] = []
    for result in allocation.devices.results:
        true = set(_true_conditions(result, claim.status.devices))
        failed = [name for name in result.binding_failure_conditions if name in true]
        if failed:
            return Readiness(failure=f"device {_named(result)} of claim {claim.metadata.name} failed: {failed[0]}")
        missing += [name for name in result.binding_conditions if name not in true]
    began = allocation.allocation_timestamp
    if missing and began is not None and now - began >= patience:
        words = f"claim {claim.metadata.name}: devices were not ready in time: {', '.join(missing)}"
        return Readiness(tuple(missing), words)
    return Readiness(tuple(missing))


def _true_conditions(result: DeviceRequestAllocationResult, told: Iterable[AllocatedDeviceStatus]) -> Iterable[str]:
    for status in told:
        same = (status.driver, status.pool, status.device) == (result.driver, result.pool, result.device)
        if same and (status.share_id or None) == (result.share_id or None):
            yield from (condition.type for condition in status.conditions if condition.status == "True")


def _named(result: DeviceRequestAllocationResult) -> str:
    return f"{result.driver}/{result.pool}/{result.device}"
