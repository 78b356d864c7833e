"""The CSI drivers registered on this node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tiphys.kubelet.csi.client import CSIClient, CSIError
from tiphys.kubelet.csi.nodes import NodeObjects
from tiphys.kubelet.plugins.registry import Plugin, RegistrationError
from tiphys.kubelet.volumes.plugin import VolumeError
from tiphys.machinery.errors import StatusError


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A driver and what its node service can do."""

    name: str
    client: CSIClient
    capabilities: frozenset[int]

    def has(self, capability: int) -> bool:
        return capability in self.capabilities


class Drivers:
    """Registers drivers (the handler of plugins of TYPE) and finds them."""

    TYPE: ClassVar[str] = "CSIPlugin"

    def __init__(self, nodes: NodeObjects) -> None:
        self._nodes = nodes
        self._drivers: dict[str, Driver] = {}

    def get(self, name: str) -> Driver:
        """Raises VolumeError when no such driver is registered."""
        driver = self._drivers.get(name)
        if driver is None:
            raise VolumeError(f"driver name {name} not found in the list of registered CSI drivers")
        return driver

    async def register(self, plugin: Plugin) -> None:
        if not any(version.removeprefix("v").split(".")[0] == "1" for version in plugin.versions):
            said = ", ".join(plugin.versions)
            raise RegistrationError(f'none of the versions specified "{said}" are supported; err=must have v1')
        client = CSIClient(plugin.endpoint)
        try:
            info = await client.info()
            capabilities = await client.capabilities()
            if not info.node_id:
                raise RegistrationError(f"error during CSI NodeGetInfo() call: driver {plugin.name} has no node ID")
            topology = dict(info.accessible_topology.segments)
            await self._nodes.add(plugin.name, info.node_id, topology, info.max_volumes_per_node)
        except BaseException as error:
            await client.close()
            if isinstance(error, CSIError):
                raise RegistrationError(f"error during CSI NodeGetInfo() call: {error}") from error
            if isinstance(error, StatusError | OSError):
                raise RegistrationError(f"error updating CSINode object with CSI driver node info: {error}") from error
            raise
        before = self._drivers.get(plugin.name)
        self._drivers[plugin.name] = Driver(name=plugin.name, client=client, capabilities=capabilities)
        if before is not None:
            await before.client.close()

    def names(self) -> list[str]:
        """The registered drivers."""
        return sorted(self._drivers)

    async def report(self, name: str) -> None:
        """Ask a driver again how many volumes the node can have, and write it. Raises VolumeError, StatusError."""
        info = await self.get(name).client.info()
        topology = dict(info.accessible_topology.segments)
        await self._nodes.add(name, info.node_id, topology, info.max_volumes_per_node)

    async def deregister(self, plugin: Plugin) -> None:
        driver = self._drivers.get(plugin.name)
        if driver is None or driver.client.endpoint != plugin.endpoint:
            return  # another has taken its place
        del self._drivers[plugin.name]
        await driver.client.close()
        await self._nodes.remove(plugin.name)

    async def close(self) -> None:
        for driver in self._drivers.values():
            await driver.client.close()
        self._drivers.clear()
