"""The devices there are: pools of ResourceSlices, of each pool its newest generation, by the nodes that reach them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tiphys.api.core.v1 import NodeSelector
from tiphys.api.resource.v1 import Device, DeviceAttribute, ResourceSlice
from tiphys.machinery.quantity import Quantity, parse_cached

AttributeValue = int | bool | str
Counters = Mapping[str, Mapping[str, Quantity]]  # set → counter → amount


class DeviceId(NamedTuple):
    """What names a device in a cluster."""

    driver: str
    pool: str
    device: str


class PoolId(NamedTuple):
    """What names a pool in a cluster."""

    driver: str
    pool: str


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A device as the allocator sees it. Names of attributes and capacities are qualified by their domain.

    `node`: the only node that reaches it, "" when `selector` (or nothing: all nodes) says which do.
    """

    id: DeviceId
    device: Device
    attributes: Mapping[str, AttributeValue]
    capacity: Mapping[str, Quantity]
    node: str = ""
    selector: NodeSelector | None = None

    @property
    def pool(self) -> PoolId:
        """Where its counters are."""
        return PoolId(self.id.driver, self.id.pool)

    @property
    def is_shared(self) -> bool:
        """Whether several claims may have parts of it."""
        return self.device.allow_multiple_allocations is True


@dataclass(slots=True)
class Inventory:
    """All usable devices. A pool that is being changed (slices are missing) or broken offers nothing."""

    by_node: dict[str, list[Offer]] = field(default_factory=lambda: defaultdict(list))
    elsewhere: list[Offer] = field(default_factory=list)  # of all nodes, or of those a selector takes
    offers: dict[DeviceId, Offer] = field(default_factory=dict)
    counters: dict[PoolId, Counters] = field(default_factory=dict)

    @classmethod
    def of(cls, slices: Iterable[ResourceSlice]) -> Inventory:
        """Gather pools; devices in the order of pools, slices and their listing."""
        pools: dict[PoolId, list[ResourceSlice]] = defaultdict(list)
        for each in sorted(slices, key=lambda one: one.metadata.name):
            pools[PoolId(each.spec.driver, each.spec.pool.name)].append(each)
        found = cls()
        for identity in sorted(pools):
            found._add_pool(identity, pools[identity])
        return found

    def _add_pool(self, identity: PoolId, slices: list[ResourceSlice]) -> None:
        newest = max(each.spec.pool.generation for each in slices)
        current = [each for each in slices if each.spec.pool.generation == newest]
        if len(current) != current[0].spec.pool.resource_slice_count:
            return
        made = [offer for each in current for offer in _offers_of(each)]
        if len({offer.id for offer in made}) != len(made):
            return  # two devices of one name: the driver is at fault
        self.counters[identity] = {
            group.name: {name: parse_cached(counter.value) for name, counter in group.counters.items()}
            for each in current
            for group in each.spec.shared_counters
        }
        # Devices that have to be made ready come last.
        for offer in sorted(made, key=lambda each: bool(each.device.binding_conditions)):
            self.offers[offer.id] = offer
            (self.by_node[offer.node] if offer.node else self.elsewhere).append(offer)


def _offers_of(piece: ResourceSlice) -> Iterable[Offer]:
    spec = piece.spec
    for device in spec.devices:
        source = device if spec.per_device_node_selection else spec
        yield Offer(
            DeviceId(spec.driver, spec.pool.name, device.name),
            device,
            {qualified(name, spec.driver): value_of(each) for name, each in device.attributes.items()},
            {qualified(name, spec.driver): parse_cached(each.value) for name, each in device.capacity.items()},
            source.node_name or "",
            source.node_selector,
        )


def qualified(name: str, driver: str) -> str:
    """A name with its domain; without one it is the driver's."""
    return name if "/" in name else f"{driver}/{name}"


def value_of(attribute: DeviceAttribute) -> AttributeValue:
    """The one value an attribute has; a version stays its text."""
    for value in (attribute.int_, attribute.bool_, attribute.string, attribute.version):
        if value is not None:
            return value
    return ""
