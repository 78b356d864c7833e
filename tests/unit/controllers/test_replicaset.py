"""The ReplicaSet controller: its number of pods, whom it deletes, adoption and release, faults."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.controllers.harness import PODS, REPLICA_SETS, World, names, pod, replica_set
from tiphys.client import Controller
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.replicaset import REPLICA_SETS as KIND
from tiphys.controllers.replicaset import ReplicaSetController


def make(context: ControllerContext) -> Controller[Any]:
    return ReplicaSetController(context, KIND)


def active(world: World) -> list[dict[str, Any]]:
    return [item for item in world.api.list(PODS) if "deletionTimestamp" not in item["metadata"]]


async def test_makes_the_pods_it_is_asked_for_and_reports_them() -> None:
    world = World()
    world.api.put(REPLICA_SETS, replica_set(replicas=3))
    async with world.running(make):
        await world.settle()
    found = world.api.get(REPLICA_SETS, "default", "r")
    assert found is not None
    assert found["status"] == {
        "replicas": 3,
        "fullyLabeledReplicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
        "terminatingReplicas": 0,
        "observedGeneration": 1,
    }
    made = active(world)[0]
    assert made["metadata"]["generateName"] == "r-"
    assert made["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": "r",
            "uid": found["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    assert {reason for reason, _ in world.events()} == {"SuccessfulCreate"}


async def test_scaling_down_deletes_the_pods_that_are_not_ready_first() -> None:
    world = World()
    world.runs = lambda item: int(item["metadata"]["uid"][4:]) % 4 != 0  # type: ignore[method-assign]
    world.api.put(REPLICA_SETS, replica_set(replicas=4))
    async with world.running(make):
        await world.settle()
        waiting = [item["metadata"]["name"] for item in active(world) if not item.get("status")]
        assert waiting
        world.api.change(REPLICA_SETS, "default", "r", {"spec": {"replicas": 4 - len(waiting)}})
        await world.settle()
    assert not set(waiting) & set(names(active(world)))
    assert len(active(world)) == 4 - len(waiting)


async def test_adopts_orphans_that_match_and_releases_what_no_longer_does() -> None:
    world = World()
    world.api.put(PODS, pod("orphan"))
    world.api.put(PODS, pod("stranger", {"app": "b"}))
    world.api.put(REPLICA_SETS, replica_set(replicas=2))
    async with world.running(make):
        await world.settle()
        assert len(active(world)) == 3
        adopted = world.api.get(PODS, "default", "orphan")
        assert adopted is not None
        assert adopted["metadata"]["ownerReferences"][0]["name"] == "r"
        world.api.change(PODS, "default", "orphan", {"metadata": {"labels": {"app": "gone"}}})
        await world.settle()
        released = world.api.get(PODS, "default", "orphan")
        assert released is not None
        assert not released["metadata"].get("ownerReferences")
        assert len(active(world)) == 4


async def test_minimum_ready_seconds_delay_availability() -> None:
    world = World()
    world.api.put(REPLICA_SETS, replica_set(replicas=1, minReadySeconds=20))
    async with world.running(make):
        await world.pass_time(10)
        before = world.api.get(REPLICA_SETS, "default", "r")
        await world.pass_time(15)
        after = world.api.get(REPLICA_SETS, "default", "r")
    assert before is not None
    assert after is not None
    assert "availableReplicas" not in before["status"]
    assert after["status"]["availableReplicas"] == 1


@pytest.mark.parametrize("seed", range(5))
async def test_arrives_at_the_right_number_through_faults(seed: int) -> None:
    world = World(faults=seed)
    world.api.put(REPLICA_SETS, replica_set(replicas=10))
    async with world.running(make):
        await world.pass_time(20)
        world.api.change(REPLICA_SETS, "default", "r", {"spec": {"replicas": 3}})
        await world.pass_time(20)
        world.api.change(REPLICA_SETS, "default", "r", {"spec": {"replicas": 7}})
        await world.pass_time(20)
        world.faulty.heal()
        # An expectation whose answer was lost waits five minutes.
        await world.settle(seconds=400, step=2)
    found = world.api.get(REPLICA_SETS, "default", "r")
    assert found is not None
    assert len(active(world)) == 7
    assert found["status"]["readyReplicas"] == 7


async def test_a_restart_in_the_middle_creates_nothing_twice() -> None:
    world = World()
    world.api.put(REPLICA_SETS, replica_set(replicas=20))
    for _ in range(5):
        async with world.running(make, kubelet=False):
            await world.clock.advance(0.001)
    async with world.running(make):
        await world.settle()
    assert len(active(world)) == 20
