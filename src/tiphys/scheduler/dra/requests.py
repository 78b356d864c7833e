"""What claims ask for, in the form the allocator works on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tiphys.api.resource.v1 import (
    DeviceClass,
    DeviceConstraint,
    DeviceSelector,
    DeviceSubRequest,
    DeviceTaint,
    DeviceToleration,
    ExactDeviceRequest,
    ResourceClaim,
)
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.quantity import Quantity, parse_cached


class ClaimError(Exception):
    """A claim that nobody can serve as it is; the message says why. `claim` names it, where there should be one."""

    def __init__(self, message: str, claim: ObjectName | None = None) -> None:
        super().__init__(message)
        self.claim = claim


@dataclass(frozen=True, slots=True)
class Ask:
    """One way to serve a request: `count` devices, or all there are (0). `name` is REQUEST or REQUEST/SUBREQUEST."""

    name: str
    device_class: str
    selectors: tuple[DeviceSelector, ...]
    count: int
    admin_access: bool
    tolerations: tuple[DeviceToleration, ...]
    amounts: tuple[tuple[str, Quantity], ...]

    @property
    def request(self) -> str:
        """The request's own name."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A claim: for each request its asks, the preferred first."""

    claim: ResourceClaim
    requests: tuple[tuple[Ask, ...], ...]
    constraints: tuple[DeviceConstraint, ...]

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for claims that ask for the same."""
        return (self.requests, self.constraints)


def wanted_of(claim: ResourceClaim, classes: Callable[[str], DeviceClass | None]) -> Wanted:
    """Raises ClaimError when a class is not there or a request cannot be read."""
    spec = claim.spec.devices
    if spec is None:
        return Wanted(claim, (), ())
    requests: list[tuple[Ask, ...]] = []
    for each in spec.requests:
        if each.exactly is not None:
            requests.append((_ask(each.name, each.exactly, classes),))
        else:
            requests.append(tuple(_ask(f"{each.name}/{sub.name}", sub, classes) for sub in each.first_available))
        if not requests[-1]:
            raise ClaimError(f"request {each.name}: it asks for nothing this version knows")
    return Wanted(claim, tuple(requests), spec.constraints)


def _ask(name: str, given: ExactDeviceRequest | DeviceSubRequest, classes: Callable[[str], DeviceClass | None]) -> Ask:
    device_class = classes(given.device_class_name)
    if device_class is None:
        raise ClaimError(f"request {name}: device class {given.device_class_name} does not exist")
    if given.allocation_mode not in ("", "ExactCount", "All"):
        raise ClaimError(f"request {name}: unsupported count mode {given.allocation_mode}")
    amounts = given.capacity.requests if given.capacity is not None else {}
    return Ask(
        name,
        given.device_class_name,
        (*device_class.spec.selectors, *given.selectors),
        0 if given.allocation_mode == "All" else given.count or 1,
        isinstance(given, ExactDeviceRequest) and given.admin_access is True,
        given.tolerations,
        tuple(sorted((key, parse_cached(amount)) for key, amount in amounts.items())),
    )


def tolerated(taints: Iterable[DeviceTaint], tolerations: Iterable[DeviceToleration]) -> bool:
    """Whether every taint that keeps pods away is tolerated."""
    given = list(tolerations)
    return all(
        any(_tolerates(each, taint) for each in given)
        for taint in taints
        if taint.effect in ("NoSchedule", "NoExecute")
    )


def _tolerates(toleration: DeviceToleration, taint: DeviceTaint) -> bool:
    if toleration.effect not in ("", taint.effect):
        return False
    if toleration.operator == "Exists":
        return toleration.key in ("", taint.key)
    return (toleration.key, toleration.value) == (taint.key, taint.value)
