"""A simulation as a component: its nodes, its pods, and the caches both read."""

from __future__ import annotations

import asyncio

from tiphys.base.clock import Clock, SystemClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers
from tiphys.simulation.nodes import NodeSimulator, NodeTemplate
from tiphys.simulation.pods import PodSimulator


class Simulator:
    """`run` keeps `count` nodes and everything on them; `ready` is set when all nodes have been made."""

    def __init__(self, client: Client, count: int, template: NodeTemplate, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._informers = Informers(client, self._clock)
        self._count = count
        self._template = template
        self._nodes = NodeSimulator(client, self._informers, self._clock)
        self._pods = PodSimulator(client, self._informers, self._clock)
        self.ready = asyncio.Event()

    @property
    def made(self) -> int:
        """How many nodes have been made so far."""
        return self._nodes.made

    async def run(self) -> None:
        """Work until cancelled; the nodes stay, and are not ready a while after."""
        async with Supervised(self._clock) as tasks:
            tasks.spawn(self._informers.run, name="informers")
            tasks.spawn(self._nodes.run, name="simulated nodes", restart=True)
            tasks.spawn(self._pods.run, name="simulated pods", restart=True)
            await self._nodes.make(self._count, self._template)
            self.ready.set()
            await tasks.wait()
