"""Node ports: each belongs to one service of the cluster.

A claimed port is a key of the store, so that several API servers never give one port twice:

    /registry/ranges/servicenodeports/30501 → uid of the service

A service may use one port for several protocols. Ports are given from the upper band of the range, which leaves the
lower one to those who ask for a number: https://kubernetes.io/docs/concepts/services-networking/service/#avoid-nodeport-collisions
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from tiphys.store import KeyExists, KeyNotFound, Store, prefix_end

PREFIX: Final = "/registry/ranges/servicenodeports/"
# How often a port is guessed before the free ones are counted.
GUESSES: Final = 16


class PortRangeFull(Exception):
    """Every port of the range is taken."""


class PortTaken(Exception):
    """The port asked for belongs to another service."""


class PortOutOfRange(Exception):
    """The port asked for is outside the range."""


class NodePorts:
    """The node ports of the cluster. `first` and `last` are inclusive."""

    def __init__(self, store: Store, first: int, last: int, rng: random.Random) -> None:
        self._store = store
        self.first = first
        self.last = last
        self._rng = rng
        size = last - first + 1
        self._static = min(max(16, size // 32), 128) if size > 16 else 0

    async def claim(self, port: int, owner: str) -> None:
        """Take one port. Raises PortOutOfRange, PortTaken."""
        if not self.first <= port <= self.last:
            raise PortOutOfRange(port)
        try:
            await self._store.create(f"{PREFIX}{port}", owner.encode())
        except KeyExists:
            raise PortTaken(port) from None

    async def is_free(self, port: int) -> bool:
        """For dry runs. Raises PortOutOfRange."""
        if not self.first <= port <= self.last:
            raise PortOutOfRange(port)
        return await self._store.get(f"{PREFIX}{port}") is None

    async def claim_any(self, owner: str) -> int:
        """Take a free port. Raises PortRangeFull."""
        for _ in range(GUESSES):
            port = self._rng.randint(self.first + self._static, self.last)
            try:
                await self.claim(port, owner)
            except PortTaken:
                continue
            return port
        for port in await self.free_ports():
            try:
                await self.claim(port, owner)
            except PortTaken:
                continue
            return port
        raise PortRangeFull

    async def claimed(self) -> dict[int, str]:
        """Every claimed port and its owner's uid."""
        found = await self._store.range(PREFIX, prefix_end(PREFIX))
        return {int(item.key.removeprefix(PREFIX)): item.value.decode() for item in found.items}

    async def free_ports(self) -> list[int]:
        """The free ports, those of the upper band first."""
        taken = await self.claimed()
        upper = [port for port in range(self.first + self._static, self.last + 1) if port not in taken]
        return upper + [port for port in range(self.first, self.first + self._static) if port not in taken]

    async def release(self, ports: Iterable[int]) -> None:
        """Give ports back; those nobody holds are ignored."""
        for port in ports:
            try:
                await self._store.delete(f"{PREFIX}{port}")
            except KeyNotFound:
                continue
