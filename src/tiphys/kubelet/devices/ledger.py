"""Which devices there are, which are well, and who has which. Pure.

```
 resource            devices (id, healthy, NUMA nodes)        held by (pod, container): ids
 vendor.com/gpu      g0 ok {0}   g1 ok {1}   g2 ill {1}       (uid, app): g0
```
A device that is held stays its container's, ill or not, until the pod is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tiphys.api.deviceplugin import api_pb2 as plugin
from tiphys.kubelet.pod import PodUID

HEALTHY = "Healthy"


class AllocationError(Exception):
    """The devices cannot be given; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device as its plugin describes it."""

    id: str
    healthy: bool
    numa_nodes: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Holding:
    """What one container has of one resource: the devices and what the plugin said to do for them."""

    devices: frozenset[str]
    response: plugin.ContainerAllocateResponse
    numa_nodes: Mapping[str, frozenset[int]] = field(default_factory=dict)


def devices_of(answer: plugin.ListAndWatchResponse) -> dict[str, Device]:
    """A plugin's list, by id."""
    return {
        item.ID: Device(item.ID, item.health == HEALTHY, frozenset(node.ID for node in item.topology.nodes))
        for item in answer.devices
    }


class Ledger:
    """The books of one node."""

    def __init__(self) -> None:
        self.devices: dict[str, dict[str, Device]] = {}  # by resource; what a gone plugin had stays, ill
        self.holdings: dict[PodUID, dict[str, dict[str, Holding]]] = {}  # by pod, container, resource

    def list_of(self, resource: str) -> Mapping[str, Device]:
        return self.devices.get(resource, {})

    def taken(self, resource: str) -> frozenset[str]:
        """The devices of a resource that somebody holds."""
        return frozenset(
            device
            for containers in self.holdings.values()
            for resources in containers.values()
            if resource in resources
            for device in resources[resource].devices
        )

    def held(self, uid: PodUID, container: str, resource: str) -> Holding | None:
        return self.holdings.get(uid, {}).get(container, {}).get(resource)

    def hold(self, uid: PodUID, container: str, resource: str, holding: Holding) -> None:
        self.holdings.setdefault(uid, {}).setdefault(container, {})[resource] = holding

    def keep_only(self, uids: Iterable[PodUID]) -> bool:
        """Take back what other pods held; whether anything was."""
        gone = set(self.holdings) - set(uids)
        for uid in gone:
            del self.holdings[uid]
        return bool(gone)

    def available(self, resource: str, reusable: frozenset[str] = frozenset()) -> frozenset[str]:
        """Well devices that nobody holds, and those of `reusable` that are well."""
        well = frozenset(device.id for device in self.list_of(resource).values() if device.healthy)
        return (well - self.taken(resource)) | (well & reusable)

    def check(self, resource: str, count: int, reusable: frozenset[str]) -> frozenset[str]:
        """The devices to choose from for `count` of them. Raises AllocationError."""
        devices = self.list_of(resource)
        if not any(device.healthy for device in devices.values()):
            raise AllocationError(f"no healthy devices present; cannot allocate unhealthy devices {resource}")
        free = self.available(resource, reusable)
        if len(free) < count:
            raise AllocationError(
                f"requested number of devices unavailable for {resource}. Requested: {count}, Available: {len(free)}"
            )
        return free

    def amounts(self, resource: str) -> tuple[int, int]:
        """(capacity, allocatable) of a resource: all its devices, and the well ones."""
        devices = self.list_of(resource).values()
        return len(devices), sum(device.healthy for device in devices)


def choose(
    devices: Mapping[str, Device],
    free: frozenset[str],
    reusable: frozenset[str],
    preferred: Iterable[str],
    count: int,
    affinity: frozenset[int] | None,
) -> frozenset[str]:
    """`count` of the `free` ones: what an init container had first, then near ones, as the plugin prefers."""
    chosen = sorted(free & reusable)[:count]
    near = frozenset(
        device for device in free if affinity is None or not affinity.isdisjoint(devices[device].numa_nodes)
    )
    order = [*(device for device in preferred if device in free), *sorted(near), *sorted(free - near)]
    for device in order:
        if len(chosen) == count:
            break
        if device not in chosen:
            chosen.append(device)
    return frozenset(chosen)
