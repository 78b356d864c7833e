"""Simulated nodes and pods over a real API server: what they do, and that a restart changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.integration.client.server import api_server
from tiphys.api.coordination.v1 import Lease
from tiphys.api.core.v1 import Namespace, Node, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.tasks import Supervised
from tiphys.client import Client, RestConfig
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.simulation import NodeTemplate, Simulator


@asynccontextmanager
async def server() -> AsyncIterator[tuple[RestConfig, Client]]:
    async with api_server() as config, Client(config, "test/1.0") as client:
        for name in ("default", "kube-node-lease"):
            await client.create(Namespace(metadata=ObjectMeta(name=name)))
        yield config, client


@asynccontextmanager
async def simulation(config: RestConfig, nodes: int) -> AsyncIterator[None]:
    async with Client(config, "simulator/1.0") as own, Supervised() as tasks:
        simulator = Simulator(own, nodes, NodeTemplate(zones=2))
        tasks.spawn(simulator.run, name="simulator")
        await simulator.ready.wait()
        yield


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not happen within twenty seconds")


async def create_pod(client: Client, name: str, node: str, **annotations: str) -> None:
    notes = {f"simulation.tiphys.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    policy = notes.pop("simulation.tiphys.dev/policy", "Always")
    raw = {
        "metadata": {"name": name, "namespace": "default", "annotations": notes},
        "spec": {"nodeName": node, "restartPolicy": policy, "containers": [{"name": "c", "image": "app"}]},
    }
    await client.create(msgspec.convert(raw, Pod))


async def status(client: Client, name: str) -> Any:
    return (await client.get(Pod, ObjectName("default", name))).status


async def test_nodes_are_made_kept_alive_and_taken_away() -> None:
    async with server() as (config, client):
        async with simulation(config, 5):
            nodes = (await client.list(Node)).items
            assert [node.metadata.name for node in nodes] == [f"simulated-0000{number}" for number in range(1, 6)]
            assert len({node.spec.pod_cidr for node in nodes}) == 5
            zones = [node.metadata.labels["topology.kubernetes.io/zone"] for node in nodes]
            assert zones == ["zone-1", "zone-2", "zone-1", "zone-2", "zone-1"]
            leases = (await client.list(Lease, namespace="kube-node-lease")).items
            assert {lease.metadata.name for lease in leases} == {node.metadata.name for node in nodes}
        async with simulation(config, 2):
            assert len((await client.list(Node)).items) == 2


async def test_a_node_that_was_lost_is_ready_again_when_it_comes_back() -> None:
    name = ObjectName("", "simulated-00001")
    lost: dict[str, Any] = {"metadata": {"annotations": {"simulation.tiphys.dev/lost": "true"}}}
    unknown = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}

    async def ready() -> str:
        found = (await client.get(Node, name)).status.conditions
        return next(each.status for each in found if each.type == "Ready")

    async with server() as (config, client), simulation(config, 1):
        await client.patch(Node, name, lost)
        await client.patch(Node, name, unknown, subresource="status")
        await create_pod(client, "waits", name.name)
        await asyncio.sleep(0.3)  # long enough for what must not happen
        assert await ready() == "Unknown"
        assert (await status(client, "waits")).phase == "Pending"
        lost["metadata"]["annotations"]["simulation.tiphys.dev/lost"] = None
        await client.patch(Node, name, lost)

        async def back() -> bool:
            return await ready() == "True" and (await status(client, "waits")).phase == "Running"

        await eventually(back)


async def test_pods_run_end_start_again_and_go() -> None:
    async with server() as (config, client), simulation(config, 1):
        node = "simulated-00001"
        await create_pod(client, "stays", node)
        await create_pod(client, "ends", node, policy="Never", run_for="1s")
        await create_pod(client, "fails", node, policy="Never", run_for="1s", exit_code="4")
        await create_pod(client, "again", node, run_for="1s", exit_code="5")

        async def all_there() -> bool:
            phases = [(await status(client, name)).phase for name in ("stays", "ends", "fails")]
            again = (await status(client, "again")).container_statuses
            waits = again and again[0].state.waiting is not None
            return phases == ["Running", "Succeeded", "Failed"] and bool(waits)

        await eventually(all_there)
        stays = await status(client, "stays")
        assert stays.pod_ip.startswith("100.64.0.") and stays.container_statuses[0].ready
        failed = (await status(client, "fails")).container_statuses[0].state.terminated
        assert failed.exit_code == 4 and failed.reason == "Error"
        again = (await status(client, "again")).container_statuses[0]
        assert again.state.waiting.reason == "CrashLoopBackOff" and again.last_state.terminated.exit_code == 5
        await client.delete(Pod, ObjectName("default", "stays"))

        async def gone() -> bool:
            try:
                await status(client, "stays")
            except NotFoundError:
                return True
            return False

        await eventually(gone)


async def create_node(client: Client, name: str, pod_cidr: str) -> None:
    labels = {"simulation.tiphys.dev/simulated": "true"}
    spec = {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]} if pod_cidr else {}
    await client.create(msgspec.convert({"metadata": {"name": name, "labels": labels}, "spec": spec}, Node))


async def test_an_ended_pod_leaves_its_address_to_one_that_waits_for_it() -> None:
    async with server() as (config, client), simulation(config, 0):
        await create_node(client, "small", "100.100.0.0/29")  # of eight addresses five are pods'
        for number in range(4):
            await create_pod(client, f"stays-{number}", "small")
        await create_pod(client, "ends", "small", policy="Never", run_for="1s")

        async def addressed() -> bool:
            return all([(await status(client, name)).pod_ip for name in ("ends", *(f"stays-{n}" for n in range(4)))])

        await eventually(addressed)
        await create_pod(client, "late", "small")

        async def runs() -> bool:
            return (await status(client, "late")).phase == "Running"

        await eventually(runs)
        ended = await status(client, "ends")
        assert ended.phase == "Succeeded"
        assert (await status(client, "late")).pod_ip == ended.pod_ip


async def test_on_a_node_without_a_range_pods_run_without_an_address() -> None:
    async with server() as (config, client), simulation(config, 0):
        await create_node(client, "bare", "")
        await create_pod(client, "p", "bare")

        async def runs() -> bool:
            return (await status(client, "p")).phase == "Running"

        await eventually(runs)
        assert not (await status(client, "p")).pod_ip


async def test_a_restart_changes_nothing() -> None:
    async with server() as (config, client):
        async with simulation(config, 1):
            for number in range(3):
                await create_pod(client, f"p{number}", "simulated-00001")

            async def running() -> bool:
                pods = (await client.list(Pod, namespace="default")).items
                return all(pod.status.phase == "Running" for pod in pods)

            await eventually(running)
            before = (await client.list(Pod, namespace="default")).items
        async with simulation(config, 1):
            await create_pod(client, "new", "simulated-00001")

            async def new_runs() -> bool:
                return (await status(client, "new")).phase == "Running"

            await eventually(new_runs)
            after = (await client.list(Pod, namespace="default")).items
            assert [pod for pod in after if pod.metadata.name != "new"] == before
            assert (await status(client, "new")).pod_ip not in {pod.status.pod_ip for pod in before}
