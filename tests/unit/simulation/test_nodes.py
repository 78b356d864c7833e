"""Simulated nodes in virtual time: no lease lapses, whatever is made beside, and a lost node's does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from tests.unit.controllers.harness import World
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers, RestConfig
from tiphys.simulation import NodeTemplate
from tiphys.simulation.nodes import LEASE_SECONDS, NodeSimulator

LEASES = "/apis/coordination.k8s.io/v1/leases"
NODES = "/api/v1/nodes"


@asynccontextmanager
async def simulating(world: World) -> AsyncIterator[NodeSimulator]:
    client = Client(RestConfig(server="http://test"), clock=world.clock, transport=world.faulty)
    informers = Informers(client, world.clock)
    simulator = NodeSimulator(client, informers, world.clock)
    async with Supervised(world.clock) as tasks:
        tasks.spawn(informers.run, name="informers")
        tasks.spawn(simulator.run, name="nodes")
        yield simulator


def oldest(world: World) -> float:
    """Seconds since the renewal that is longest ago."""
    renewed = [datetime.fromisoformat(lease["spec"]["renewTime"]) for lease in world.api.list(LEASES)]
    return (world.clock.now() - min(renewed)).total_seconds()


async def making(world: World, simulator: NodeSimulator, count: int) -> None:
    """Make nodes while time goes on."""
    task = asyncio.ensure_future(simulator.make(count, NodeTemplate()))
    while not task.done():
        await world.clock.advance(0.05)
    await task


async def test_leases_are_renewed_in_time_while_more_nodes_are_made() -> None:
    world = World()
    async with simulating(world) as simulator:
        for count in (20, 510, 530):
            await making(world, simulator, count)
            for _ in range(60):
                await world.clock.advance(0.5)
                assert oldest(world) < LEASE_SECONDS - 10
        assert len(world.api.list(NODES)) == 530


async def test_nodes_are_made_although_requests_are_lost() -> None:
    world = World(faults=7)
    async with simulating(world) as simulator:
        await making(world, simulator, 30)
        await world.pass_time(30)
    assert len(world.api.list(NODES)) == len(world.api.list(LEASES)) == 30


async def test_a_lost_node_is_not_heard_of_until_it_comes_back() -> None:
    world = World()
    async with simulating(world) as simulator:
        await making(world, simulator, 2)
        notes = {"metadata": {"annotations": {"simulation.tiphys.dev/lost": "true"}}}
        world.api.change(NODES, "", "simulated-00001", notes)
        await world.pass_time(60)
        assert oldest(world) > LEASE_SECONDS
        notes["metadata"]["annotations"]["simulation.tiphys.dev/lost"] = "false"
        world.api.change(NODES, "", "simulated-00001", notes)
        await world.pass_time(20)
        assert oldest(world) < LEASE_SECONDS
