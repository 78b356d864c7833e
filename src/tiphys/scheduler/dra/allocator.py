"""Finds devices for claims on one node: depth first, in the order of requests and devices, backing out of dead ends.

A choice is one device for one place of one ask. Equal places are filled in ascending order, so that of equal sets
only one is tried. What is chosen on the way counts as taken.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING
from typing import Final, NamedTuple

from tiphys.api.resource.v1 import CapacityRequestPolicy, DeviceConstraint
from tiphys.machinery.quantity import Quantity, parse_cached
from tiphys.scheduler.dra.inventory import AttributeValue, DeviceId, Inventory, Offer, PoolId, qualified
from tiphys.scheduler.dra.ledger import Ledger
from tiphys.scheduler.dra.requests import Ask, Wanted, tolerated
from tiphys.scheduler.dra.selectors import Selectors

MAX_RESULTS: Final = 32  # devices of one claim
MAX_STEPS: Final = 20_000  # choices tried for one node before it counts as one without a way

Consumed = Mapping[str, Quantity]


class Given(NamedTuple):
    """A device for an ask. `share` names the part of a device that others have parts of too."""

    ask: Ask
    offer: Offer
    share: str | None = None
    consumed: Consumed | None = None


@dataclass(slots=True)
class _Run:
    """What was chosen so far."""

    chosen: list[list[Given]]
    taken: Counter[DeviceId] = field(default_factory=Counter)
    shared: dict[DeviceId, dict[str, Quantity]] = field(default_factory=lambda: defaultdict(dict))
    steps: int = 0


class _Exhausted(Exception):
    """Too many steps."""


class Allocator:
    """One attempt: what there is and what is taken do not change meanwhile. Raises SelectorError."""

    def __init__(self, inventory: Inventory, ledger: Ledger, selectors: Selectors, offers: Sequence[Offer]) -> None:
        """`offers` are the devices that the node reaches."""
        self._inventory = inventory
        self._ledger = ledger
        self._selectors = selectors
        self._offers = offers
        self._fitting: dict[int, list[Offer]] = {}
        self._consumption: dict[PoolId, dict[tuple[str, str], Quantity]] = {}

    def allocate(self, wanted: Sequence[Wanted]) -> list[list[Given]] | None:
        """For each claim its devices, in the order of its requests; None when there is no way."""
        run = _Run([[] for _ in wanted])
        places = [(number, request) for number, each in enumerate(wanted) for request in each.requests]
        try:
            return run.chosen if self._fill(wanted, places, 0, run) else None
        except _Exhausted:
            return None

    def _fill(
        self, wanted: Sequence[Wanted], places: Sequence[tuple[int, tuple[Ask, ...]]], at: int, run: _Run
    ) -> bool:
        """Serve the requests from `at` on."""
        if at == len(places):
            return True
        claim, asks = places[at]
        for ask in asks:
            fitting = self._offers_for(ask)
            count = ask.count
            if count == 0:
                # All that fit, and at least one.
                count = len(fitting)
                if not count:
                    continue
            if len(run.chosen[claim]) + count > MAX_RESULTS:
                continue
            if self._choose(wanted, places, at, run, ask, fitting, count, 0):
                return True
        return False

    def _choose(
        self,
        wanted: Sequence[Wanted],
        places: Sequence[tuple[int, tuple[Ask, ...]]],
        at: int,
        run: _Run,
        ask: Ask,
        fitting: Sequence[Offer],
        left: int,
        start: int,
    ) -> bool:
        """Choose `left` more devices out of those from `start` on, then go on with the next request."""
        if not left:
            return self._fill(wanted, places, at + 1, run)
        claim = places[at][0]
        for index in range(start, len(fitting)):
            if ask.count == 0 and index > start:
                return False  # of all, each must be had
            offer = fitting[index]
            given = self._give(ask, offer, run)
            if given is None:
                continue
            run.steps += 1
            if run.steps > MAX_STEPS:
                raise _Exhausted
            run.chosen[claim].append(given)
            if self._hold(wanted[claim].constraints, run.chosen[claim]):
                self._take(given, run, 1)
                if self._choose(
                    wanted, places, at, run, ask, fitting, left - 1, index + (not offer.is_shared or not ask.count)
                ):
                    return True
                self._take(given, run, -1)
            run.chosen[claim].pop()
        return False

    # --- one device --------------------------------------------------------------------------

    def _offers_for(self, ask: Ask) -> list[Offer]:
        """Devices of the node that the ask takes, whether free or not."""
        known = self._fitting.get(id(ask))
        if known is None:
            known = self._fitting[id(ask)] = [
                offer
                for offer in self._offers
                if (ask.admin_access or tolerated(offer.device.taints, ask.tolerations))
                and self._selectors.take(ask.selectors, offer)
                and all(qualified(name, offer.id.driver) in offer.capacity for name, _ in ask.amounts)
            ]
        return known

    def _give(self, ask: Ask, offer: Offer, run: _Run) -> Given | None:
        """The device, or a part of it, if it is to be had now."""
        if ask.admin_access:
            return Given(ask, offer)
        if not self._counters_allow(offer, run):
            return None
        if not offer.is_shared:
            if offer.id in self._ledger.holders or offer.id in run.taken:
                return None
            amounts = dict(ask.amounts)
            enough = all(offer.capacity[qualified(n, offer.id.driver)].amount >= q.amount for n, q in amounts.items())
            return Given(ask, offer) if enough else None
        consumed = self._part(ask, offer, run)
        return None if consumed is None else Given(ask, offer, str(uuid.uuid4()), consumed)

    def _part(self, ask: Ask, offer: Offer, run: _Run) -> dict[str, Quantity] | None:
        """What the ask consumes of each capacity of a shared device; None when there is not as much left."""
        asked = {qualified(name, offer.id.driver): amount for name, amount in ask.amounts}
        consumed: dict[str, Quantity] = {}
        for name, capacity in offer.device.capacity.items():
            key = qualified(name, offer.id.driver)
            whole = offer.capacity[key]
            amount = rounded(asked.get(key), capacity.request_policy, whole)
            if amount is None:
                return None
            used = self._ledger.consumed.get(offer.id, {}).get(key, _NOTHING) + run.shared[offer.id].get(key, _NOTHING)
            if used.amount + amount.amount > whole.amount:
                return None
            consumed[key] = amount
        return consumed

    def _take(self, given: Given, run: _Run, sign: int) -> None:
        if given.ask.admin_access:
            return
        run.taken[given.offer.id] += sign
        if not run.taken[given.offer.id]:
            del run.taken[given.offer.id]
        for name, amount in (given.consumed or {}).items():
            before = run.shared[given.offer.id].get(name, _NOTHING)
            run.shared[given.offer.id][name] = before + amount if sign > 0 else before - amount

    # --- counters of a pool ------------------------------------------------------------------

    def _counters_allow(self, offer: Offer, run: _Run) -> bool:
        """Whether the pool's counters have what the device draws from them (partitions of one device)."""
        if not offer.device.consumes_counters:
            return True
        if offer.id in self._ledger.holders or offer.id in run.taken:
            return True  # drawn already
        there = self._inventory.counters.get(offer.pool, {})
        used = dict(self._drawn(offer.pool))
        for identity in run.taken:
            if (identity.driver, identity.pool) == offer.pool:
                for key, amount in draws(self._inventory.offers[identity]):
                    used[key] = used.get(key, _NOTHING) + amount
        for key, amount in draws(offer):
            whole = there.get(key[0], {}).get(key[1])
            if whole is None or used.get(key, _NOTHING).amount + amount.amount > whole.amount:
                return False
        return True

    def _drawn(self, pool: PoolId) -> dict[tuple[str, str], Quantity]:
        """What the devices that claims hold draw from a pool's counters."""
        known = self._consumption.get(pool)
        if known is None:
            known = self._consumption[pool] = {}
            for identity in self._ledger.holders:
                offer = self._inventory.offers.get(identity)
                if offer is not None and offer.pool == pool:
                    for key, amount in draws(offer):
                        known[key] = known.get(key, _NOTHING) + amount
        return known

    # --- constraints of a claim --------------------------------------------------------------

    @staticmethod
    def _hold(constraints: Sequence[DeviceConstraint], chosen: Sequence[Given]) -> bool:
        """Whether all constraints hold for what was chosen so far; only the last may break one."""
        last = chosen[-1]
        for constraint in constraints:
            names = constraint.requests
            if names and last.ask.name not in names and last.ask.request not in names:
                continue
            attribute = constraint.match_attribute or constraint.distinct_attribute or ""
            value = attribute_of(last, attribute)
            if value is None:
                return False
            others = [
                attribute_of(each, attribute)
                for each in chosen[:-1]
                if not names or each.ask.name in names or each.ask.request in names
            ]
            if constraint.match_attribute:
                if any((type(other), other) != (type(value), value) for other in others):
                    return False
            elif any((type(other), other) == (type(value), value) for other in others):
                return False
        return True


_NOTHING: Final = Quantity.of(0)


def attribute_of(given: Given, name: str) -> AttributeValue | None:
    """A device's attribute by its qualified name."""
    return given.offer.attributes.get(name)


def draws(offer: Offer) -> Iterator[tuple[tuple[str, str], Quantity]]:
    """What a device draws from counters while somebody has it: (set, counter) and the amount."""
    for group in offer.device.consumes_counters:
        for name, counter in group.counters.items():
            yield (group.counter_set, name), parse_cached(counter.value)


def rounded(asked: Quantity | None, policy: CapacityRequestPolicy | None, whole: Quantity) -> Quantity | None:
    """What a request consumes of a capacity (KEP-5075): the default, or the next amount the policy has; None: too much.

    Without a policy it is what was asked for, or everything.
    """
    if policy is None:
        return whole if asked is None else asked
    if asked is None:
        return parse_cached(policy.default) if policy.default else whole
    if policy.valid_values:
        values = sorted((parse_cached(each) for each in policy.valid_values), key=lambda each: each.amount)
        return next((each for each in values if each.amount >= asked.amount), None)
    if policy.valid_range is not None:
        least = parse_cached(policy.valid_range.min)
        amount = max(asked.amount, least.amount)
        if policy.valid_range.step:
            step = parse_cached(policy.valid_range.step).amount
            steps = ((amount - least.amount) / step).to_integral_value(ROUND_CEILING)
            amount = least.amount + steps * step
        if policy.valid_range.max and amount > parse_cached(policy.valid_range.max).amount:
            return None
        return Quantity(amount, asked.format)
    return asked
