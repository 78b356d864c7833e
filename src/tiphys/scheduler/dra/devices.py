"""What there is, what is taken, and what was worked out about it: one for all profiles of a scheduler."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from tiphys.api.resource.v1 import ResourceClaim, ResourceSlice
from tiphys.client import Informers
from tiphys.scheduler.dra.extended import ExtendedResources
from tiphys.scheduler.dra.inventory import Inventory
from tiphys.scheduler.dra.ledger import Ledger
from tiphys.scheduler.dra.selectors import Selectors


class Devices:
    """Follows claims and slices. `answers`: for equal wants, by node, whether they can be served there."""

    def __init__(self, informers: Informers) -> None:
        self.ledger = Ledger()
        self.selectors = Selectors()
        self.answers: dict[tuple[object, ...], dict[str, bool]] = {}
        self.extended = ExtendedResources(informers)
        self._inventory: Inventory | None = None
        claims = informers.of(ResourceClaim)
        slices = informers.of(ResourceSlice)
        self._slices = slices.lister
        claims.add_handler(self.ledger.see, lambda _, new: self.ledger.see(new), self.ledger.gone)
        slices.add_handler(self._slices_changed, lambda *_: self._slices_changed(), self._slices_changed)

    def _slices_changed(self, *_: object) -> None:
        self._inventory = None

    def inventory(self) -> Inventory:
        """The devices there are now."""
        if self._inventory is None:
            self._inventory = Inventory.of(self._slices.list())
            self.selectors.clear()
            self.answers.clear()
        return self._inventory


_shared: WeakKeyDictionary[Informers, Devices] = WeakKeyDictionary()


def devices_of(informers: Informers) -> Devices:
    """The one of these informers."""
    found = _shared.get(informers)
    if found is None:
        found = _shared[informers] = Devices(informers)
    return found
