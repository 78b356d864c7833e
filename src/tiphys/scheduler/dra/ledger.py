"""What devices are taken: by claims whose allocation is written, and by those whose allocation is being written.

Between Reserve and the moment the claim's cache shows the allocation, the decision lives here alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tiphys.api.resource.v1 import AllocationResult, ResourceClaim
from tiphys.machinery.quantity import Quantity, parse_cached
from tiphys.scheduler.dra.inventory import DeviceId


@dataclass(frozen=True, slots=True)
class Taking:
    """One device of one claim; of a shared device the amounts it consumes."""

    id: DeviceId
    consumed: Mapping[str, Quantity] | None = None


@dataclass(slots=True)
class Ledger:
    """The claims that hold devices, by uid."""

    holders: Counter[DeviceId] = field(default_factory=Counter)
    consumed: dict[DeviceId, dict[str, Quantity]] = field(default_factory=lambda: defaultdict(dict))
    in_flight: dict[str, AllocationResult] = field(default_factory=dict)  # by claim uid
    changes: list[DeviceId] = field(default_factory=list)  # since somebody last asked
    _held: dict[str, tuple[Taking, ...]] = field(default_factory=dict)

    def see(self, claim: ResourceClaim) -> None:
        """A claim as its cache shows it."""
        uid = claim.metadata.uid
        if claim.status.allocation is not None:
            self.in_flight.pop(uid, None)
            self._hold(uid, claim.status.allocation)
        elif uid not in self.in_flight:
            self._release(uid)

    def gone(self, claim: ResourceClaim) -> None:
        """A claim was deleted."""
        self.in_flight.pop(claim.metadata.uid, None)
        self._release(claim.metadata.uid)

    def assume(self, uid: str, allocation: AllocationResult) -> None:
        """A decision that is about to be written."""
        self.in_flight[uid] = allocation
        self._hold(uid, allocation)

    def forget(self, uid: str) -> None:
        """A decision that is not written after all."""
        if self.in_flight.pop(uid, None) is not None:
            self._release(uid)

    def _hold(self, uid: str, allocation: AllocationResult) -> None:
        taking = tuple(takings_of(allocation))
        if self._held.get(uid) == taking:
            return
        self._release(uid)
        self._held[uid] = taking
        for each in taking:
            self._count(each, 1)

    def _release(self, uid: str) -> None:
        for each in self._held.pop(uid, ()):
            self._count(each, -1)

    def _count(self, taking: Taking, sign: int) -> None:
        self.changes.append(taking.id)
        self.holders[taking.id] += sign
        if not self.holders[taking.id]:
            del self.holders[taking.id]
        if taking.consumed is None:
            return
        amounts = self.consumed[taking.id]
        for name, amount in taking.consumed.items():
            before = amounts.get(name, Quantity.of(0))
            amounts[name] = before + amount if sign > 0 else before - amount
        if taking.id not in self.holders:
            self.consumed.pop(taking.id, None)


def takings_of(allocation: AllocationResult) -> Iterable[Taking]:
    """The devices of an allocation; one that is only looked at (admin access) is nobody's."""
    for each in allocation.devices.results if allocation.devices is not None else ():
        if each.admin_access:
            continue
        consumed = None
        if each.share_id is not None:
            consumed = {name: parse_cached(amount) for name, amount in each.consumed_capacity.items()}
        yield Taking(DeviceId(each.driver, each.pool, each.device), consumed)
