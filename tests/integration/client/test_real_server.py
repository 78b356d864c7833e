"""The client against the real API server: every verb, informers, leader election."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
import pytest
from msgspec.structs import replace

from tests.integration.client.server import api_server
from tiphys.api.core.v1 import ConfigMap, Namespace
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.clock import SystemClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, EventType, Informers, LeaderElector, PatchType, Preconditions, discover
from tiphys.machinery.errors import ConflictError, NotFoundError
from tiphys.machinery.meta import ObjectName

KEY = ObjectName("default", "a")


def config_map(name: str = "a") -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data={"k": "v"})


async def test_the_verbs() -> None:
    async with api_server() as config, Client(config) as client:
        await client.create(Namespace(metadata=ObjectMeta(name="default")))
        made = await client.create(config_map())
        changed = await client.update(replace(made, data={"k": "w"}))
        with pytest.raises(ConflictError):
            await client.update(replace(made, data={"k": "x"}))
        patched = await client.patch(ConfigMap, KEY, {"data": {"more": "1"}}, patch_type=PatchType.MERGE)
        assert dict(patched.data) == {"k": "w", "more": "1"}
        listed = await client.list(ConfigMap, namespace="default", field_selector="metadata.name=a")
        assert [item.metadata.name for item in listed.items] == ["a"]
        with pytest.raises(ConflictError):
            await client.delete(
                ConfigMap, KEY, only_if=Preconditions(resource_version=changed.metadata.resource_version)
            )
        await client.delete(ConfigMap, KEY, only_if=Preconditions(uid=made.metadata.uid))
        with pytest.raises(NotFoundError):
            await client.get(ConfigMap, KEY)
        events = client.watch(ConfigMap, resource_version=made.metadata.resource_version, timeout_seconds=1)
        types = [event.type async for event in events if event.type is not EventType.BOOKMARK]
        assert types == [EventType.MODIFIED, EventType.MODIFIED, EventType.DELETED]


async def test_discovery_finds_every_kind() -> None:
    async with api_server() as config, Client(config) as client:
        found = await discover(client)
    assert not found.failed
    deployment = found.find("apps/v1", "Deployment")
    assert deployment is not None
    assert deployment.plural == "deployments"
    assert {"list", "watch", "delete"} <= deployment.verbs


async def test_an_informer_follows_and_pages_of_metadata_arrive() -> None:
    clock = SystemClock()
    async with api_server() as config, Client(config) as client:
        await client.create(Namespace(metadata=ObjectMeta(name="default")))
        for i in range(5):
            await client.create(config_map(f"m{i}"))
        found = await discover(client)
        resource = found.find("v1", "ConfigMap")
        assert resource is not None
        page = await client.list(resource.endpoint, namespace="default", limit=2)
        assert len(page.items) == 2
        assert page.continue_
        informers = Informers(client, clock)
        informer = informers.of(resource.endpoint)
        async with Supervised(clock) as tasks, asyncio.timeout(10):
            tasks.spawn(informers.run, name="informers")
            await informers.synced()
            gone = asyncio.Event()
            informer.add_handler(on_delete=lambda _: gone.set())
            await client.delete(ConfigMap, ObjectName("default", "m0"))
            await gone.wait()
            assert len(informer.lister) == 4


async def test_leader_election_hands_over() -> None:
    clock = SystemClock()
    lease = ObjectName("kube-system", "test")
    async with api_server() as config, Client(config) as client, asyncio.timeout(20):
        await client.create(Namespace(metadata=ObjectMeta(name="kube-system")))
        leading = asyncio.Event()

        async def work() -> None:
            leading.set()
            await asyncio.get_running_loop().create_future()

        async with Supervised(clock) as tasks:
            first = LeaderElector(client, clock, lease=lease, identity="one")
            task = tasks.spawn(lambda: first.run(work), name="one")
            await leading.wait()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            leading.clear()
            second = LeaderElector(client, clock, lease=lease, identity="two")
            tasks.spawn(lambda: second.run(work), name="two")
            await leading.wait()
            assert second.is_leader


async def test_a_cache_has_no_managed_fields_and_updates_from_it_lose_none() -> None:
    async with api_server() as config, Client(config) as client, Supervised() as tasks:
        await client.create(Namespace(metadata=ObjectMeta(name="default")))
        made = await client.create(config_map(), field_manager="maker")
        assert made.metadata.managed_fields
        informers = Informers(client)
        informer = informers.of(ConfigMap, namespace="default")
        tasks.spawn(informers.run, name="informers")
        await informer.synced()
        cached = informer.lister.get(KEY)
        assert cached is not None and not cached.metadata.managed_fields
        await client.update(replace(cached, data={**cached.data, "more": "1"}), field_manager="changer")
        managers = (await client.get(ConfigMap, KEY)).metadata.managed_fields
        assert {each.manager: list(msgspec.json.decode(each.fields_v1)["f:data"]) for each in managers} == {
            "maker": [".", "f:k"],
            "changer": ["f:more"],
        }
