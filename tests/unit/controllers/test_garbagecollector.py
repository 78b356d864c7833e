"""The garbage collector: background, foreground, orphan, absent owners, several owners, faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.client.fakeapi import status
from tests.unit.controllers.harness import World, names
from tiphys.api.core.v1 import ConfigMap
from tiphys.api.meta.v1 import ObjectMeta, OwnerReference
from tiphys.client import Client, RestConfig, endpoint_of
from tiphys.client.transport import Response
from tiphys.controllers.garbagecollector import GarbageCollector
from tiphys.controllers.garbagecollector.graph import Graph, Identity
from tiphys.machinery.meta import ObjectName

MAPS = "/api/v1/configmaps"
SECRETS = "/api/v1/secrets"


def config_map(name: str, *owners: dict[str, Any], block: bool = False, **meta: Any) -> dict[str, Any]:
    references = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for owner in owners
    ]
    return {"metadata": {"name": name, "namespace": "default", "ownerReferences": references, **meta}}


async def delete(world: World, name: str, propagation: str = "Background") -> None:
    client = Client(RestConfig(server="http://test"), transport=world.api)
    await client.delete(ConfigMap, ObjectName("default", name), propagation=propagation)


async def test_dependents_of_a_deleted_owner_go_down_the_whole_tree() -> None:
    world = World()
    root = world.api.put(MAPS, config_map("root"))
    kid = world.api.put(MAPS, config_map("kid", root))
    world.api.put(MAPS, config_map("grandkid", kid))
    world.api.put(MAPS, config_map("bystander"))
    async with world.running(GarbageCollector):
        await world.settle()
        assert len(world.api.list(MAPS)) == 4
        await delete(world, "root")
        await world.settle()
    assert names(world.api.list(MAPS)) == ["bystander"]


async def test_a_dependent_with_another_owner_stays_and_loses_the_reference() -> None:
    world = World()
    one, two = world.api.put(MAPS, config_map("one")), world.api.put(MAPS, config_map("two"))
    world.api.put(MAPS, config_map("kid", one, two))
    async with world.running(GarbageCollector):
        await world.settle()
        await delete(world, "one")
        await world.settle()
    kid = world.api.get(MAPS, "default", "kid")
    assert kid is not None
    assert [owner["name"] for owner in kid["metadata"]["ownerReferences"]] == ["two"]


async def test_an_owner_that_never_existed_is_no_owner() -> None:
    world = World()
    ghost = {"metadata": {"name": "x", "uid": "00000000-0000-0000-0000-000000000001"}}
    world.api.put(MAPS, config_map("kid", ghost))
    async with world.running(GarbageCollector):
        await world.settle()
    assert world.api.list(MAPS) == []


async def test_foreground_waits_for_dependents_that_block() -> None:
    world = World()
    owner = world.api.put(MAPS, config_map("owner"))
    world.api.put(MAPS, config_map("kid", owner, block=True, finalizers=["a.b/c"]))
    async with world.running(GarbageCollector):
        await world.settle()
        await delete(world, "owner", "Foreground")
        await world.settle()
        kid = world.api.get(MAPS, "default", "kid")
        assert kid is not None
        assert "deletionTimestamp" in kid["metadata"]
        assert world.api.get(MAPS, "default", "owner") is not None
        world.api.change(MAPS, "default", "kid", {"metadata": {"finalizers": None}})
        await world.settle()
    assert world.api.list(MAPS) == []


async def test_a_circle_of_owners_goes_in_the_foreground() -> None:
    world = World()
    one = world.api.put(MAPS, config_map("one"))
    two = world.api.put(MAPS, config_map("two", one, block=True))
    three = world.api.put(MAPS, config_map("three", two, block=True))
    references = config_map("one", three, block=True)["metadata"]["ownerReferences"]
    world.api.change(MAPS, "default", "one", {"metadata": {"ownerReferences": references}})
    async with world.running(GarbageCollector):
        await world.settle()
        assert len(world.api.list(MAPS)) == 3
        await delete(world, "one", "Foreground")
        await world.settle()
    assert world.api.list(MAPS) == []


async def test_a_kind_that_cannot_be_listed_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    root = world.api.put(MAPS, config_map("root"))
    world.api.put(MAPS, config_map("kid", root))
    answer = world.faulty.request

    async def request(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        if target.startswith(SECRETS):
            return status(500, "", "conversion webhook for example.com/v1, Kind=Secret failed: EOF")
        return await answer(method, target, headers, body)

    monkeypatch.setattr(world.faulty, "request", request)
    async with world.running(GarbageCollector):
        await delete(world, "root")
        await world.settle(seconds=60)
    assert world.api.list(MAPS) == []


async def test_orphan_leaves_dependents_without_the_reference() -> None:
    world = World()
    owner = world.api.put(MAPS, config_map("owner"))
    world.api.put(MAPS, config_map("kid", owner))
    async with world.running(GarbageCollector):
        await world.settle()
        await delete(world, "owner", "Orphan")
        await world.settle()
    (kid,) = world.api.list(MAPS)
    assert not kid["metadata"].get("ownerReferences")


async def test_an_owner_in_another_namespace_is_none_and_the_event_says_so() -> None:
    world = World()
    owner = world.api.put(MAPS, {"metadata": {"name": "owner", "namespace": "other"}})
    world.api.put(MAPS, config_map("kid", owner))
    async with world.running(GarbageCollector):
        await world.settle()
    assert names(world.api.list(MAPS)) == ["owner"]
    uid = owner["metadata"]["uid"]
    text = f'ownerRef [v1/ConfigMap, namespace: default, name: owner, uid: {uid}] does not exist in namespace "default"'
    assert ("OwnerRefInvalidNamespace", text) in world.events()


@pytest.mark.parametrize("seed", range(4))
async def test_everything_below_goes_and_nothing_else_through_faults(seed: int) -> None:
    world = World(faults=seed)
    root, other = world.api.put(MAPS, config_map("root")), world.api.put(MAPS, config_map("other"))
    for i in range(10):
        kid = world.api.put(MAPS, config_map(f"kid{i}", root))
        world.api.put(MAPS, config_map(f"grandkid{i}", kid))
        world.api.put(MAPS, config_map(f"shared{i}", root, other))
    async with world.running(GarbageCollector):
        await world.pass_time(10)
        await delete(world, "root")
        await world.pass_time(30)
        world.faulty.heal()
        await world.settle(seconds=120, step=2)
    assert names(world.api.list(MAPS)) == ["other", *[f"shared{i}" for i in range(10)]]


@pytest.mark.parametrize(
    ("kind", "namespace", "look"),
    [
        pytest.param("ConfigMap", "default", set(), id="there, and what it says it is"),
        pytest.param("ConfigMap", "other", {"kid"}, id="another namespace"),
        pytest.param("Secret", "default", {"kid"}, id="another kind"),
    ],
)
def test_a_new_object_is_looked_at_only_when_its_owner_may_be_none(kind: str, namespace: str, look: set[str]) -> None:
    graph = Graph()
    graph.observe(Identity("v1", "ConfigMap", "default", "root", "root"), ObjectMeta())
    owner = OwnerReference(api_version="v1", kind=kind, name="root", uid="root")
    kid = Identity("v1", "ConfigMap", namespace, "kid", "kid")
    assert graph.observe(kid, ObjectMeta(owner_references=(owner,))) == look


def test_the_graph_endpoint_of_a_map_is_the_core_one() -> None:
    assert endpoint_of(ConfigMap).path("default", "a") == "/api/v1/namespaces/default/configmaps/a"
