"""The informer's cache equals the server's state, and its handlers see every change that lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.unit.client.fakeapi import FakeApi
from tests.unit.client.faults import FaultyTransport, Rates
from tiphys.api.core.v1 import ConfigMap, Pod
from tiphys.base.clock import FakeClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers, RestConfig, SharedInformer
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.selectors import LabelSelector

MAPS = "/api/v1/configmaps"
PODS = "/api/v1/pods"


class World:
    def __init__(self, seed: int | None = None) -> None:
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        self.faulty = FaultyTransport(self.api, self.clock, seed or 0, Rates.none() if seed is None else Rates())
        self.client = Client(RestConfig(server="http://test"), clock=self.clock, transport=self.faulty)
        self.informers = Informers(self.client, self.clock)
        self.seen: list[tuple[str, str]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with Supervised(self.clock) as tasks:
            tasks.spawn(self.informers.run, name="informers")
            await self.clock.advance(0)
            yield

    def record(self, informer: SharedInformer[Any]) -> None:
        informer.add_handler(
            lambda obj: self.seen.append(("add", obj.metadata.name)),
            lambda _, obj: self.seen.append(("update", obj.metadata.name)),
            lambda obj: self.seen.append(("delete", obj.metadata.name)),
        )


def config_map(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}, "data": {"k": "v"}}


async def test_lists_then_follows_the_watch() -> None:
    world = World()
    world.api.put(MAPS, config_map("a"))
    informer = world.informers.of(ConfigMap)
    world.record(informer)
    async with world.running():
        await informer.synced()
        world.api.put(MAPS, config_map("b"))
        world.api.change(MAPS, "default", "a", {"data": {"k": "w"}})
        world.api.remove(MAPS, "default", "b")
        await world.clock.advance(1)
    assert world.seen == [("add", "a"), ("add", "b"), ("update", "a"), ("delete", "b")]
    found = informer.lister.get(ObjectName("default", "a"))
    assert found is not None
    assert found.data == {"k": "w"}


async def test_what_changed_while_the_watch_was_broken_is_seen_after_the_relist() -> None:
    world = World()
    for name in ("stays", "goes", "changes", "replaced"):
        world.api.put(MAPS, config_map(name))
    informer = world.informers.of(ConfigMap)
    world.record(informer)
    async with world.running():
        await world.clock.advance(1)
        world.seen.clear()
        world.api.cut_watches()
        world.api.remove(MAPS, "default", "goes")
        world.api.change(MAPS, "default", "changes", {"data": {"k": "w"}})
        world.api.remove(MAPS, "default", "replaced")
        world.api.put(MAPS, config_map("replaced"))
        world.api.put(MAPS, config_map("new"))
        world.api.oldest = world.api.revision + 1
        await world.clock.advance(0.05)
        world.api.oldest = 0
        await world.clock.advance(5)
    assert sorted(world.seen) == sorted(
        [("delete", "goes"), ("update", "changes"), ("delete", "replaced"), ("add", "replaced"), ("add", "new")]
    )


async def test_indexes_and_selectors_find_objects() -> None:
    world = World()
    for name, app in (("a", "x"), ("b", "y"), ("c", "x")):
        world.api.put(MAPS, config_map(name, app=app))
    informer = world.informers.of(ConfigMap)
    informer.add_index("app", lambda obj: (obj.metadata.labels["app"],))
    async with world.running():
        await informer.synced()
        assert [obj.metadata.name for obj in informer.lister.by_index("app", "x")] == ["a", "c"]
        world.api.change(MAPS, "default", "a", {"metadata": {"labels": {"app": "y"}}})
        await world.clock.advance(1)
    assert [obj.metadata.name for obj in informer.lister.by_index("app", "x")] == ["c"]
    selector = LabelSelector.of_dict({"matchLabels": {"app": "y"}})
    assert sorted(obj.metadata.name for obj in informer.lister.list("default", selector)) == ["a", "b"]
    assert informer.lister.list("other") == []


async def test_the_same_question_gives_the_same_informer_and_a_late_one_is_started() -> None:
    world = World()
    world.api.put(PODS, {"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "n1"}})
    async with world.running():
        informer = world.informers.of(Pod, field_selector="spec.nodeName=n1")
        assert world.informers.of(Pod, field_selector="spec.nodeName=n1") is informer
        assert world.informers.of(Pod) is not informer
        await world.clock.advance(1)
        assert len(informer.lister) == 1


async def test_a_handler_added_late_hears_of_what_is_there() -> None:
    world = World()
    world.api.put(MAPS, config_map("a"))
    informer = world.informers.of(ConfigMap)
    async with world.running():
        await informer.synced()
        world.record(informer)
    assert world.seen == [("add", "a")]


@pytest.mark.parametrize("seed", range(6))
async def test_the_cache_ends_equal_to_the_server_through_faults(seed: int) -> None:
    world = World(seed)
    informer = world.informers.of(ConfigMap)
    mirror: dict[str, str] = {}
    informer.add_handler(
        lambda obj: mirror.__setitem__(obj.metadata.name, obj.data["k"]),
        lambda _, obj: mirror.__setitem__(obj.metadata.name, obj.data["k"]),
        lambda obj: mirror.__delitem__(obj.metadata.name),
    )
    async with world.running():
        for step in range(60):
            name = f"m{step % 7}"
            if world.api.get(MAPS, "default", name) is None:
                world.api.put(MAPS, config_map(name))
            elif step % 3:
                world.api.change(MAPS, "default", name, {"data": {"k": str(step)}})
            else:
                world.api.remove(MAPS, "default", name)
            await world.clock.advance(0.3)
        world.faulty.heal()
        await world.clock.advance(30)
    wanted = {obj["metadata"]["name"]: obj["data"]["k"] for obj in world.api.list(MAPS)}
    assert {obj.metadata.name: obj.data["k"] for obj in informer.lister.list()} == wanted
    assert mirror == wanted
