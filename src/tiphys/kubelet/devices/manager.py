"""The device manager: from a plugin's list to a device in a container.

1. a plugin registers and lists its devices: they become the node's capacity (well ones: allocatable);
2. a pod is admitted: each container gets whole devices, chosen near to each other and as the plugin prefers, and the
   plugin says what they need (`Allocate`); without enough of them the pod is refused;
3. a container starts: the plugin prepares (`PreStartContainer`), and its environment, mounts, device nodes,
   annotations and CDI names go into the container;
4. the pod ends: its devices are free again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import grpc.aio

from tiphys.api.core.v1 import Pod
from tiphys.api.deviceplugin import api_pb2 as plugin
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.kubelet.devices import checkpoint
from tiphys.kubelet.devices.ledger import AllocationError, Device, Holding, choose, devices_of
from tiphys.kubelet.devices.plugins import Endpoint, Plugins
from tiphys.kubelet.pod import AnyContainer, PodUID, is_sidecar, uid_of
from tiphys.kubelet.resources import container_amounts
from tiphys.kubelet.topology.hints import Hint, Nodes, hints_of

log = get_logger(__name__)

# How long a resource whose plugin has gone is shown with no device of it well, before it is shown as none at all.
STOP_GRACE: Final = 300.0


class DeviceManager:
    """The node's devices. `changed` is called when capacity or allocatable differ."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._changed: Callable[[], None] = lambda: None
        self._stopped: dict[str, float] = {}  # resource → when its plugin went (monotonic)
        self.plugins = Plugins(directory, self._told)
        self.ledger = checkpoint.load(directory / checkpoint.NAME)
        for resource in self.ledger.devices:
            self._stopped[resource] = clock.monotonic()

    def bind(self, changed: Callable[[], None]) -> None:
        """Whom to tell of changed amounts."""
        self._changed = changed

    async def run(self) -> None:
        """Take plugins until cancelled."""
        async with Supervised(self._clock) as tasks:
            await self.plugins.run(tasks)

    # -- what the node has ---------------------------------------------------------------------------

    def amounts(self) -> tuple[dict[str, str], dict[str, str]]:
        """(capacity, allocatable) of every resource that plugins offer or have offered."""
        capacity, allocatable = {}, {}
        for resource in self.ledger.devices:
            all_of_it, well = self.ledger.amounts(resource)
            gone = self._stopped.get(resource)
            if gone is not None and self._clock.monotonic() - gone > STOP_GRACE:
                all_of_it = 0
            capacity[resource], allocatable[resource] = str(all_of_it), str(well)
        return capacity, allocatable

    def knows(self, resource: str) -> bool:
        """Whether the resource is one of devices, so that this manager counts it."""
        return resource in self.ledger.devices

    def _told(self, endpoint: Endpoint, answer: plugin.ListAndWatchResponse | None) -> None:
        resource, before = endpoint.resource, dict(self.ledger.list_of(endpoint.resource))
        if answer is None:
            self._stopped[resource] = self._clock.monotonic()
            now = {device: Device(device, False, known.numa_nodes) for device, known in before.items()}
        else:
            self._stopped.pop(resource, None)
            now = devices_of(answer)
        self.ledger.devices[resource] = now
        self._save()
        if now != before:
            self._changed()

    def _save(self) -> None:
        try:
            checkpoint.save(self._directory / checkpoint.NAME, self.ledger)
        except OSError as error:
            log.warning("writing the device manager's checkpoint failed: %s", error)

    # -- admission -----------------------------------------------------------------------------------

    def hints(self, pod: Pod, container: AnyContainer, amounts: Mapping[str, int] | None = None) -> list[list[Hint]]:
        """Where devices for the container could lie, of each resource that lies somewhere; `amounts`: of its pod."""
        found = []
        for resource, count in (self.wanted(container) if amounts is None else amounts).items():
            devices = self.ledger.list_of(resource)
            if not any(device.numa_nodes for device in devices.values()):
                continue
            held = self.ledger.held(uid_of(pod), container.name, resource)
            reusable = self.reusable(pod, container, resource)
            free = held.devices if held is not None else self.ledger.available(resource, reusable)

            def could(nodes: Nodes, devices: Mapping[str, Device] = devices, count: int = count) -> bool:
                return sum(d.healthy and not nodes.isdisjoint(d.numa_nodes) for d in devices.values()) >= count

            def can(
                nodes: Nodes,
                devices: Mapping[str, Device] = devices,
                free: frozenset[str] = free,
                must: frozenset[str] = free & reusable,
                count: int = count,
            ) -> bool:
                near = {device for device in free if not nodes.isdisjoint(devices[device].numa_nodes)}
                return len(near) >= count and (len(must) > count or must <= near)

            nodes = frozenset[int]().union(*(device.numa_nodes for device in devices.values()))
            found.append(hints_of(nodes, could, can))
        return found

    def wanted(self, container: AnyContainer) -> dict[str, int]:
        """How many of which devices the container asks for."""
        limits = container_amounts(container, "limits")
        return {name: amount.value() for name, amount in limits.items() if self.knows(name) and amount.value() > 0}

    def free(self, resource: str, reusable: frozenset[str] = frozenset()) -> list[Device]:
        """The devices of a resource that could be given now."""
        devices = self.ledger.list_of(resource)
        return [devices[device] for device in sorted(self.ledger.available(resource, reusable))]

    def reusable(self, pod: Pod, container: AnyContainer, resource: str) -> frozenset[str]:
        """What the pod's init containers before this one had: they have ended when it starts."""
        found: set[str] = set()
        for earlier in pod.spec.init_containers:
            if earlier.name == container.name:
                break
            held = self.ledger.held(uid_of(pod), earlier.name, resource)
            if held is not None and not is_sidecar(earlier):
                found |= held.devices
        # A container beside this one may have taken some of them.
        for other in (*pod.spec.init_containers, *pod.spec.containers):
            if other.name == container.name or (other in pod.spec.init_containers and not is_sidecar(other)):
                continue
            held = self.ledger.held(uid_of(pod), other.name, resource)
            found -= held.devices if held is not None else frozenset()
        return frozenset(found)

    async def allocate(
        self, pod: Pod, container: AnyContainer, active: Collection[PodUID], affinity: frozenset[int] | None = None
    ) -> None:
        """Give the container its devices; `active`: the pods that keep theirs. Raises AllocationError."""
        uid = uid_of(pod)
        self.ledger.keep_only({uid, *active})
        for resource, count in self.wanted(container).items():
            if self.ledger.held(uid, container.name, resource) is not None:
                continue  # a kubelet before this one gave them
            reusable = self.reusable(pod, container, resource)
            free = self.ledger.check(resource, count, reusable)
            endpoint = self._endpoint(resource)
            devices = await self._choose(endpoint, free, reusable, count, affinity)
            try:
                response = await endpoint.allocate(sorted(devices))
            except grpc.aio.AioRpcError as error:
                said = f"rpc error: code = {_code(error)} desc = {error.details()}"
                raise AllocationError(said) from error
            except ValueError as error:
                raise AllocationError(str(error)) from error
            known = self.ledger.list_of(resource)
            nodes = {device: known[device].numa_nodes for device in devices if device in known}
            self.ledger.hold(uid, container.name, resource, Holding(devices, response, nodes))
        await asyncio.to_thread(self._save)

    async def _choose(
        self,
        endpoint: Endpoint,
        free: frozenset[str],
        reusable: frozenset[str],
        count: int,
        affinity: frozenset[int] | None,
    ) -> frozenset[str]:
        preferred: list[str] = []
        if endpoint.options.get_preferred_allocation_available and count < len(free):
            try:
                preferred = await endpoint.preferred(sorted(free), sorted(free & reusable)[:count], count)
            except grpc.aio.AioRpcError as error:
                raise AllocationError(f"rpc error: code = {_code(error)} desc = {error.details()}") from error
        return choose(self.ledger.list_of(endpoint.resource), free, reusable, preferred, count, affinity)

    def _endpoint(self, resource: str) -> Endpoint:
        endpoint = self.plugins.endpoints.get(resource)
        if endpoint is None:
            raise AllocationError(f"unknown Device Plugin {resource}")
        return endpoint

    def release(self, uid: PodUID) -> None:
        """The pod has ended, or was not taken after all."""
        if self.ledger.holdings.pop(uid, None) is not None:
            self._save()

    # -- starting and looking ------------------------------------------------------------------------

    async def responses(self, pod: Pod, container: AnyContainer) -> list[plugin.ContainerAllocateResponse]:
        """What the plugins want in a container that is about to start. Raises AllocationError."""
        found = []
        for resource, holding in self.holdings(uid_of(pod), container.name).items():
            endpoint = self.plugins.endpoints.get(resource)
            if endpoint is not None and endpoint.options.pre_start_required:
                try:
                    await endpoint.before_start(sorted(holding.devices))
                except grpc.aio.AioRpcError as error:
                    said = f"device plugin PreStartContainer rpc failed with err: {error.details()}"
                    raise AllocationError(said) from error
            found.append(holding.response)
        return found

    def holdings(self, uid: PodUID, container: str) -> Mapping[str, Holding]:
        """What a container has, by resource."""
        return self.ledger.holdings.get(uid, {}).get(container, {})

    def all_devices(self) -> Iterator[tuple[str, Device]]:
        """Every device that is well, with its resource."""
        for resource, devices in self.ledger.devices.items():
            yield from ((resource, device) for device in devices.values() if device.healthy)


def _code(error: grpc.aio.AioRpcError) -> str:
    return "".join(part.capitalize() for part in error.code().name.split("_"))
