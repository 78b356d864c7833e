"""What the API knows of the drivers on this node: CSINode, and on the Node their ids and topology labels.

https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/csi-node-v1/
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from tiphys.api.core.v1 import Node
from tiphys.api.meta.v1 import ObjectMeta, OwnerReference
from tiphys.api.storage.v1 import CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources
from tiphys.base.clock import Clock
from tiphys.client import Client
from tiphys.machinery.errors import AlreadyExistsError, ConflictError, NotFoundError
from tiphys.machinery.meta import ObjectName

NODE_IDS: Final = "csi.volume.kubernetes.io/nodeid"
RETRY: Final = 0.05  # seconds after somebody else wrote in between


class NodeObjects:
    """Keeps the CSINode of the node. All its methods raise StatusError and OSError."""

    def __init__(self, client: Client, clock: Clock, node_name: str) -> None:
        self._client = client
        self._clock = clock
        self._key = ObjectName("", node_name)
        self._lock = asyncio.Lock()

    async def ensure(self) -> CSINode:
        """The CSINode, made when there is none; it goes with the Node."""
        try:
            return await self._client.get(CSINode, self._key)
        except NotFoundError:
            node = await self._client.get(Node, self._key)
            owner = OwnerReference(api_version="v1", kind="Node", name=self._key.name, uid=node.metadata.uid)
            made = CSINode(metadata=ObjectMeta(name=self._key.name, owner_references=(owner,)))
            try:
                return await self._client.create(made)
            except AlreadyExistsError:
                return await self._client.get(CSINode, self._key)

    async def add(self, driver: str, node_id: str, topology: Mapping[str, str], limit: int) -> None:
        """The driver is here, knows the node as `node_id` and attaches at most `limit` volumes (0: no limit)."""
        async with self._lock:
            await self._on_node(lambda ids: {**ids, driver: node_id}, topology)
            entry = CSINodeDriver(
                name=driver,
                node_id=node_id,
                topology_keys=tuple(sorted(topology)),
                allocatable=VolumeNodeResources(count=min(limit, 2**31 - 1)) if limit > 0 else None,
            )
            await self._write(lambda drivers: (*drivers, entry), driver)

    async def remove(self, driver: str) -> None:
        """The driver is not here any more. Its topology labels stay: volumes are still bound to them."""
        async with self._lock:
            await self._write(lambda drivers: drivers, driver)
            await self._on_node(lambda ids: {name: one for name, one in ids.items() if name != driver}, {})

    async def _write(
        self, change: Callable[[tuple[CSINodeDriver, ...]], tuple[CSINodeDriver, ...]], driver: str
    ) -> None:
        """Write the drivers as `change` makes them of the others."""
        while True:
            known = await self.ensure()
            drivers = change(tuple(one for one in known.spec.drivers if one.name != driver))
            if sorted(drivers, key=_name) == sorted(known.spec.drivers, key=_name):
                return
            try:
                await self._client.update(replace(known, spec=CSINodeSpec(drivers=drivers)))
                return
            except ConflictError:
                await self._clock.sleep(RETRY)

    async def _on_node(self, change: Callable[[dict[str, str]], dict[str, str]], topology: Mapping[str, str]) -> None:
        node = await self._client.get(Node, self._key)
        written = node.metadata.annotations.get(NODE_IDS, "")
        ids = change(_parsed(written))
        text = json.dumps(ids, separators=(",", ":"), sort_keys=True) if ids else None
        patch: dict[str, Any] = {}
        if (text or "") != written:
            patch["annotations"] = {NODE_IDS: text}
        if any(node.metadata.labels.get(key) != value for key, value in topology.items()):
            patch["labels"] = dict(topology)
        if patch:
            await self._client.patch(Node, self._key, {"metadata": patch})


def _name(driver: CSINodeDriver) -> str:
    return driver.name


def _parsed(text: str) -> dict[str, str]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
