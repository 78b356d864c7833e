"""Out-of-tree plugins in the real scheduler: holding pods back, failing, and being tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from tests.integration.client.server import api_server
from tests.integration.scheduler.test_scheduling import create_node, create_pod, eventually, get_pod, messages
from tiphys.api.core.v1 import Namespace, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.clock import SystemClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers
from tiphys.machinery.errors import StatusError, internal_error, not_found
from tiphys.machinery.meta import GroupResource
from tiphys.scheduler import Profile, Scheduler, SchedulerConfig
from tiphys.scheduler.framework.events import EVERY_EVENT, Requeue
from tiphys.scheduler.framework.interface import CycleState, Refusal, Wait
from tiphys.scheduler.plugins import Entry
from tiphys.scheduler.podinfo import PodInfo


class Hold:
    """Permit: waits for a pair."""

    name: ClassVar[str] = "Hold"
    requeue_on: ClassVar[Requeue] = EVERY_EVENT

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.held: list[PodInfo] = []

    def permit(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | Wait | None:
        self.held.append(pod)
        return Wait(self.seconds)


class FailOnce:
    """PreBind: the first attempt fails."""

    name: ClassVar[str] = "FailOnce"
    requeue_on: ClassVar[Requeue] = EVERY_EVENT

    def __init__(self, error: StatusError | None = None) -> None:
        self.error = error or internal_error("disk on fire")
        self.attempts = 0

    async def pre_bind(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        self.attempts += 1
        if self.attempts == 1:
            raise self.error
        return None


@asynccontextmanager
async def scheduling_with(plugin: Hold | FailOnce) -> AsyncIterator[tuple[Client, Scheduler]]:
    clock = SystemClock()
    async with api_server() as config, Client(config, "test/1.0") as client:
        await client.create(Namespace(metadata=ObjectMeta(name="default")))
        async with Client(config, "kube-scheduler/v1.36.2") as own, Supervised(clock) as tasks:
            informers = Informers(own, clock)
            settings = SchedulerConfig(
                profiles=(Profile(enabled={plugin.name: 0}),),
                pod_initial_backoff_seconds=0.05,
            )
            entry = Entry(0, lambda _: plugin)
            scheduler = Scheduler(own, informers, settings, clock, plugins={plugin.name: entry})
            tasks.spawn(informers.run, name="informers")
            tasks.spawn(scheduler.run, name="scheduler")
            yield client, scheduler


async def test_permit_holds_until_allowed() -> None:
    hold = Hold(60)
    async with scheduling_with(hold) as (client, scheduler):
        await create_node(client, "n1")
        await create_pod(client, "p")

        async def held() -> bool:
            return bool(hold.held)

        await eventually(held)

        async def expected() -> bool:
            return (await get_pod(client, "p")).status.nominated_node_name == "n1"

        await eventually(expected)
        assert not (await get_pod(client, "p")).spec.node_name
        scheduler.waiting.allow(hold.held[0].uid, "Hold")

        async def bound() -> bool:
            return (await get_pod(client, "p")).spec.node_name == "n1"

        await eventually(bound)
        assert not (await get_pod(client, "p")).status.nominated_node_name


async def test_permit_gives_up_in_time_and_frees_the_node() -> None:
    hold = Hold(0.05)
    async with scheduling_with(hold) as (client, scheduler):
        await create_node(client, "n1")
        await create_pod(client, "p", {"cpu": "3"})

        async def told() -> bool:
            found = await messages(client, "p", "FailedScheduling")
            return any("rejected due to timeout after waiting 0.05s at plugin Hold" in message for message in found)

        await eventually(told)

        async def freed() -> bool:
            return not scheduler.cache.assumed_count()

        await eventually(freed)


async def test_what_was_expected_of_a_pod_is_taken_back() -> None:
    hold = Hold(0.05)
    async with scheduling_with(hold) as (client, _), Supervised() as tasks:
        informers = Informers(client)
        nodes: list[str] = []
        informers.of(Pod).add_handler(None, lambda _, new: nodes.append(new.status.nominated_node_name), None)
        tasks.spawn(informers.run, name="informers")
        await create_node(client, "n1")
        await create_pod(client, "p")

        async def taken_back() -> bool:
            return "n1" in nodes and "" in nodes[nodes.index("n1") :]

        await eventually(taken_back)


async def test_a_failed_binding_is_taken_back_and_tried_again() -> None:
    fail = FailOnce()
    async with scheduling_with(fail) as (client, scheduler):
        await create_node(client, "n1", cpu="1")
        await create_pod(client, "p", {"cpu": "900m"})

        async def bound() -> bool:
            return (await get_pod(client, "p")).spec.node_name == "n1"

        await eventually(bound)
        assert fail.attempts == 2
        row = scheduler.cache.nodes.row_of["n1"]
        assert scheduler.cache.nodes.requested[0, row] == 900

        async def told() -> bool:
            found = await messages(client, "p", "FailedScheduling")
            return any(message.startswith("binding rejected: ") for message in found)

        await eventually(told)


async def test_something_else_that_is_missing_does_not_lose_the_pod() -> None:
    fail = FailOnce(not_found(GroupResource("resource.k8s.io", "resourceclaims"), "gpu"))
    async with scheduling_with(fail) as (client, _):
        await create_node(client, "n1")
        await create_pod(client, "p")

        async def bound() -> bool:
            return (await get_pod(client, "p")).spec.node_name == "n1"

        await eventually(bound)
        assert fail.attempts == 2
