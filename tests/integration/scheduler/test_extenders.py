"""HTTP extenders beside the real scheduler: they filter, score, bind, fail, and mind their own pods only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.integration.client.server import api_server
from tests.integration.scheduler.test_scheduling import create_node, create_pod, eventually, get_pod, messages
from tiphys.api.core.v1 import Binding, Namespace, Node, ObjectReference, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.clock import SystemClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler import Scheduler
from tiphys.scheduler.config import load


class Service:
    """An extender that allows and likes the nodes it is told to; remembers what it was asked."""

    def __init__(self) -> None:
        self.allowed: set[str] | None = None
        self.failed: dict[str, str] = {}
        self.unresolvable: dict[str, str] = {}
        self.scores: dict[str, int] = {}
        self.error = ""
        self.status = 200
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.client: Client | None = None

    async def answer(self, request: web.Request) -> web.Response:
        verb, body = request.path.rpartition("/")[2], await request.json()
        self.asked.append((verb, body))
        if self.status != 200:
            return web.Response(status=self.status)
        return web.json_response(await getattr(self, verb)(body))

    async def filter(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["NodeNames"] is not None:
            names = [name for name in body["NodeNames"] if self.allowed is None or name in self.allowed]
            kept: dict[str, Any] = {"NodeNames": names}
        else:
            items = body["Nodes"]["items"]
            names = [item for item in items if self.allowed is None or item["metadata"]["name"] in self.allowed]
            kept = {"nodes": {"items": names}}
        return {
            **kept,
            "FailedNodes": self.failed,
            "FailedAndUnresolvableNodes": self.unresolvable,
            "Error": self.error,
        }

    async def prioritize(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        names = body["NodeNames"] or [item["metadata"]["name"] for item in body["Nodes"]["items"]]
        return [{"Host": name, "Score": self.scores.get(name, 0)} for name in names]

    async def preempt(self, body: dict[str, Any]) -> dict[str, Any]:
        told = body["NodeNameToMetaVictims"] or {
            node: {**victims, "Pods": [{"UID": one["metadata"]["uid"]} for one in victims["Pods"]]}
            for node, victims in body["NodeNameToVictims"].items()
        }
        return {"NodeNameToMetaVictims": {node: one for node, one in told.items() if node in (self.allowed or told)}}

    async def bind(self, body: dict[str, Any]) -> dict[str, Any]:
        assert self.client is not None
        binding = Binding(
            metadata=ObjectMeta(namespace=body["PodNamespace"], name=body["PodName"], uid=body["PodUID"]),
            target=ObjectReference(kind="Node", name=body["Node"]),
        )
        await self.client.create_subresource(Pod, ObjectName(body["PodNamespace"], body["PodName"]), "binding", binding)
        return {"Error": ""}


@asynccontextmanager
async def scheduling(service: Service, **extender: Any) -> AsyncIterator[Client]:
    """A scheduler that asks `service` all three verbs unless `extender` says otherwise."""
    application = web.Application()
    application.router.add_post("/ext/{verb}", service.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    document = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "podInitialBackoffSeconds": 0.05,
        "podMaxBackoffSeconds": 0.1,
        "extenders": [{"urlPrefix": f"http://127.0.0.1:{port}/ext", "filterVerb": "filter", **extender}],
    }
    clock = SystemClock()
    try:
        async with api_server() as config, Client(config, "test/1.0") as client:
            service.client = client
            await client.create(Namespace(metadata=ObjectMeta(name="default")))
            for node in ("n1", "n2", "n3"):
                await create_node(client, node)
            async with Client(config, "kube-scheduler/v1.36.2") as own, Supervised(clock) as tasks:
                informers = Informers(own, clock)
                scheduler = Scheduler(own, informers, load(document), clock)
                tasks.spawn(informers.run, name="informers")
                tasks.spawn(scheduler.run, name="scheduler")
                yield client
    finally:
        await runner.cleanup()


async def node_of(client: Client, name: str) -> str:
    found = ""

    async def bound() -> bool:
        nonlocal found
        found = (await get_pod(client, name)).spec.node_name
        return bool(found)

    await eventually(bound)
    return found


@pytest.mark.parametrize("cached", [False, True])
async def test_it_filters_and_scores(cached: bool) -> None:
    service = Service()
    service.allowed, service.scores = {"n1", "n3"}, {"n1": 1, "n3": 10, "n2": 10}
    async with scheduling(service, prioritizeVerb="prioritize", weight=5, nodeCacheCapable=cached) as client:
        for number in range(4):
            await create_pod(client, f"p{number}", {"cpu": "100m"})
            assert await node_of(client, f"p{number}") == "n3"
        verbs = [verb for verb, _ in service.asked]
        assert verbs == ["filter", "prioritize"] * 4
        first = service.asked[0][1]
        assert first["Pod"]["metadata"]["name"] == "p0"
        assert (first["NodeNames"] is None) != cached
        assert sorted(service.asked[1][1]["NodeNames"] or ["n1", "n3"]) == ["n1", "n3"]


async def test_why_it_rejects_is_told_and_the_pod_comes_back_when_something_changes() -> None:
    service = Service()
    service.allowed = set()
    service.failed, service.unresolvable = {"n1": "no licence", "n2": "no licence"}, {"n3": "wrong floor"}
    async with scheduling(service) as client:
        await create_pod(client, "p", {"cpu": "100m"})
        expected = (
            "0/3 nodes are available: 1 wrong floor, 2 no licence. preemption: 0/3 nodes are available: "
            "1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
        )

        async def explained() -> bool:
            return expected in await messages(client, "p", "FailedScheduling")

        await eventually(explained)
        service.allowed = {"n2"}
        await client.patch(Node, ObjectName("", "n1"), {"metadata": {"labels": {"any": "change"}}})
        await create_node(client, "n4")
        assert await node_of(client, "p") == "n2"


async def test_it_binds() -> None:
    service = Service()
    async with scheduling(service, bindVerb="bind") as client:
        await create_pod(client, "p", {"cpu": "100m"})
        node = await node_of(client, "p")
        asked = [body for verb, body in service.asked if verb == "bind"]
        pod = await get_pod(client, "p")
        assert asked == [{"PodName": "p", "PodNamespace": "default", "PodUID": pod.metadata.uid, "Node": node}]


async def test_an_error_fails_the_attempt_unless_it_may_be_ignored() -> None:
    service = Service()
    service.error = "out to lunch"
    async with scheduling(service) as client:
        await create_pod(client, "p", {"cpu": "100m"})

        async def told() -> bool:
            return any("out to lunch" in text for text in await messages(client, "p", "FailedScheduling"))

        await eventually(told)
        assert not (await get_pod(client, "p")).spec.node_name
        service.error = ""
        assert await node_of(client, "p")
    service.status = 500
    async with scheduling(service, ignorable=True) as client:
        await create_pod(client, "p", {"cpu": "100m"})
        assert await node_of(client, "p")


async def test_it_is_asked_about_its_own_resources_only_and_they_are_its_to_count() -> None:
    service = Service()
    managed = [{"name": "example.com/seat", "ignoredByScheduler": True}]
    async with scheduling(service, managedResources=managed) as client:
        await create_pod(client, "plain", {"cpu": "100m"})
        assert await node_of(client, "plain")
        assert service.asked == []
        # No node has any of it: the scheduler does not count what the extender counts.
        container = {"name": "c", "image": "app", "resources": {"limits": {"example.com/seat": "1"}}}
        raw = {"metadata": {"name": "seated", "namespace": "default"}, "spec": {"containers": [container]}}
        await client.create(msgspec.convert(raw, Pod))
        assert await node_of(client, "seated")
        assert [verb for verb, _ in service.asked] == ["filter"]


async def test_pods_deleted_while_an_extender_thinks_are_let_go() -> None:
    service = Service()
    thinking, go_on = asyncio.Event(), asyncio.Event()
    answer = service.filter

    async def slow(body: dict[str, Any]) -> dict[str, Any]:
        thinking.set()
        await go_on.wait()
        return await answer(body)

    service.filter = slow  # type: ignore[method-assign]
    async with scheduling(service) as client:
        await create_pod(client, "gone", {"cpu": "100m"})
        await thinking.wait()
        await client.delete(Pod, ObjectName("default", "gone"), grace_period_seconds=0)
        await create_pod(client, "next", {"cpu": "100m"})
        go_on.set()
        assert await node_of(client, "next")


@pytest.mark.parametrize("cached", [False, True])
async def test_it_has_a_say_in_whom_to_evict(cached: bool) -> None:
    service = Service()
    async with scheduling(service, filterVerb="", preemptVerb="preempt", nodeCacheCapable=cached) as client:
        for number in range(3):
            await create_pod(client, f"low{number}", {"cpu": "3"}, terminationGracePeriodSeconds=0)
            await node_of(client, f"low{number}")
        service.allowed = {"n2"}
        await create_pod(client, "high", {"cpu": "3"}, priority=10)
        assert await node_of(client, "high") == "n2"
        (asked,) = [body for verb, body in service.asked if verb == "preempt"]
        victims = asked["NodeNameToMetaVictims" if cached else "NodeNameToVictims"]
        assert sorted(victims) == ["n1", "n2", "n3"]
        assert [(len(one["Pods"]), one["NumPDBViolations"]) for one in victims.values()] == [(1, 0)] * 3
