"""The Deployment controller: rollouts, their fences, history, pause, deadline, recreate, faults."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.controllers.harness import DEPLOYMENTS, PODS, REPLICA_SETS, World, deployment, template
from tiphys.api.apps.v1 import (
    Deployment,
    DeploymentSpec,
    DeploymentStrategy,
    ReplicaSet,
    ReplicaSetSpec,
    ReplicaSetStatus,
    RollingUpdateDeployment,
)
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import Controller
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.deployment import DeploymentController
from tiphys.controllers.deployment.rolling import scale_old
from tiphys.controllers.replicaset import REPLICA_SETS as KIND
from tiphys.controllers.replicaset import ReplicaSetController


def replica_sets(context: ControllerContext) -> Controller[Any]:
    return ReplicaSetController(context, KIND)


BOTH = (DeploymentController, replica_sets)


def current(world: World, name: str = "d") -> dict[str, Any]:
    found = world.api.get(DEPLOYMENTS, "default", name)
    assert found is not None
    return found


def conditions(world: World) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in current(world)["status"]["conditions"]}


def images(world: World) -> list[str]:
    return sorted(
        item["spec"]["containers"][0]["image"]
        for item in world.api.list(PODS)
        if "deletionTimestamp" not in item["metadata"]
    )


def set_image(world: World, image: str) -> None:
    world.api.change(DEPLOYMENTS, "default", "d", {"spec": {"template": template(image)}})


async def test_the_first_rollout_ends_available_and_complete() -> None:
    world = World()
    world.api.put(DEPLOYMENTS, deployment(replicas=3))
    async with world.running(*BOTH):
        await world.settle()
    found = current(world)
    assert found["metadata"]["annotations"] == {"deployment.kubernetes.io/revision": "1"}
    (rs,) = world.api.list(REPLICA_SETS)
    assert rs["metadata"]["annotations"] == {
        "deployment.kubernetes.io/desired-replicas": "3",
        "deployment.kubernetes.io/max-replicas": "4",
        "deployment.kubernetes.io/revision": "1",
    }
    suffix = rs["metadata"]["labels"]["pod-template-hash"]
    assert rs["metadata"]["name"] == f"d-{suffix}"
    assert conditions(world) == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }
    status = {key: value for key, value in found["status"].items() if key != "conditions"}
    assert status == {
        "observedGeneration": 1,
        "replicas": 3,
        "updatedReplicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
        "terminatingReplicas": 0,
    }
    assert ("ScalingReplicaSet", f"Scaled up replica set {rs['metadata']['name']} from 0 to 3") in world.events()


async def test_a_rolling_update_stays_between_its_fences() -> None:
    world = World()
    world.api.put(DEPLOYMENTS, deployment(replicas=10))
    async with world.running(*BOTH):
        await world.settle()
        set_image(world, "new")
        for _ in range(200):
            await world.clock.advance(0.25)
            pods = [item for item in world.api.list(PODS) if "deletionTimestamp" not in item["metadata"]]
            ready = [item for item in pods if item.get("status", {}).get("phase") == "Running"]
            assert len(pods) <= 13
            assert len(ready) >= 8
        await world.settle()
    assert images(world) == ["new"] * 10
    assert current(world)["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    assert sorted(rs["spec"]["replicas"] for rs in world.api.list(REPLICA_SETS)) == [0, 10]


async def test_going_back_to_an_old_template_takes_its_set_again_as_a_new_revision() -> None:
    world = World()
    world.api.put(DEPLOYMENTS, deployment(replicas=2))
    async with world.running(*BOTH):
        await world.settle()
        set_image(world, "new")
        await world.settle()
        set_image(world, "img")
        await world.settle()
    assert images(world) == ["img", "img"]
    sets = {
        rs["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: rs for rs in world.api.list(REPLICA_SETS)
    }
    assert sorted(sets) == ["2", "3"]
    assert sets["3"]["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"


async def test_recreate_has_no_old_pod_when_the_first_new_one_comes() -> None:
    world = World()
    world.api.put(DEPLOYMENTS, deployment(replicas=3, strategy={"type": "Recreate"}))
    async with world.running(*BOTH):
        await world.settle()
        set_image(world, "new")
        for _ in range(100):
            await world.clock.advance(0.2)
            assert len({item["spec"]["containers"][0]["image"] for item in world.api.list(PODS)}) <= 1
        await world.settle()
    assert images(world) == ["new"] * 3


async def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    world = World()
    world.api.put(DEPLOYMENTS, deployment(replicas=2))
    async with world.running(*BOTH):
        await world.settle()
        world.api.change(DEPLOYMENTS, "default", "d", {"spec": {"paused": True, "template": template("new")}})
        await world.settle()
        assert conditions(world)["Progressing"] == ("Unknown", "DeploymentPaused")
        world.api.change(DEPLOYMENTS, "default", "d", {"spec": {"replicas": 4}})
        await world.settle()
        assert images(world) == ["img"] * 4
        world.api.change(DEPLOYMENTS, "default", "d", {"spec": {"paused": None}})
        await world.settle()
    assert images(world) == ["new"] * 4


async def test_a_rollout_that_does_not_move_exceeds_its_deadline_and_recovers() -> None:
    world = World()
    broken = True
    world.runs = lambda item: not broken or item["spec"]["containers"][0]["image"] != "bad"  # type: ignore[method-assign]
    world.api.put(DEPLOYMENTS, deployment(replicas=4, progressDeadlineSeconds=60))
    async with world.running(*BOTH):
        await world.settle()
        set_image(world, "bad")
        await world.pass_time(55)
        assert conditions(world)["Progressing"] == ("True", "ReplicaSetUpdated")
        await world.pass_time(15)
        assert conditions(world)["Progressing"] == ("False", "ProgressDeadlineExceeded")
        assert conditions(world)["Available"][0] == "True"
        broken = False
        await world.settle()
    assert conditions(world)["Progressing"] == ("True", "NewReplicaSetAvailable")


async def test_scaling_in_the_middle_of_a_rollout_is_proportional() -> None:
    world = World()
    world.runs = lambda item: item["spec"]["containers"][0]["image"] != "bad"  # type: ignore[method-assign]
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}
    world.api.put(DEPLOYMENTS, deployment(replicas=10, strategy=rolling))
    async with world.running(*BOTH):
        await world.settle()
        set_image(world, "bad")
        await world.settle()
        assert sorted(rs["spec"]["replicas"] for rs in world.api.list(REPLICA_SETS)) == [5, 8]
        world.api.change(DEPLOYMENTS, "default", "d", {"spec": {"replicas": 15}})
        await world.settle()
    # The example of the documentation: three more for the larger set, two for the smaller.
    assert sorted(rs["spec"]["replicas"] for rs in world.api.list(REPLICA_SETS)) == [7, 11]


async def test_old_empty_sets_beyond_the_history_limit_go() -> None:
    world = World()
    world.api.put(DEPLOYMENTS, deployment(replicas=1, revisionHistoryLimit=2))
    async with world.running(*BOTH):
        for image in ("a", "b", "c", "d", "e"):
            set_image(world, image)
            await world.settle()
    assert sorted(rs["spec"]["template"]["spec"]["containers"][0]["image"] for rs in world.api.list(REPLICA_SETS)) == [
        "c",
        "d",
        "e",
    ]


async def test_a_set_of_another_template_under_our_name_is_a_collision() -> None:
    world = World()
    world.api.put(DEPLOYMENTS, deployment(replicas=1))
    async with world.running(*BOTH):
        await world.settle()
    (rs,) = world.api.list(REPLICA_SETS)
    other = World()
    stranger = {"metadata": {"name": rs["metadata"]["name"], "namespace": "default"}, "spec": {"replicas": 0}}
    other.api.put(REPLICA_SETS, stranger)
    other.api.put(DEPLOYMENTS, deployment(replicas=1))
    async with other.running(*BOTH):
        await other.settle()
    assert current(other)["status"]["collisionCount"] == 1
    assert images(other) == ["img"]


@pytest.mark.parametrize("seed", range(5))
async def test_rollouts_end_right_through_faults(seed: int) -> None:
    world = World(faults=seed)
    world.api.put(DEPLOYMENTS, deployment(replicas=6))
    async with world.running(*BOTH):
        await world.pass_time(15)
        set_image(world, "second")
        await world.pass_time(10)
    async with world.running(*BOTH):
        set_image(world, "third")
        await world.pass_time(10)
        world.api.change(DEPLOYMENTS, "default", "d", {"spec": {"replicas": 4}})
        await world.pass_time(10)
        world.faulty.heal()
        await world.settle(seconds=400, step=2)
    assert images(world) == ["third"] * 4
    assert conditions(world)["Progressing"] == ("True", "NewReplicaSetAvailable")


def rolling_set(size: int, available: int) -> ReplicaSet:
    meta = ObjectMeta(name=f"s{size}-{available}", uid=f"{size}-{available}")
    return ReplicaSet(
        metadata=meta, spec=ReplicaSetSpec(replicas=size), status=ReplicaSetStatus(available_replicas=available)
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param((400, 400), (100, 0), [300], id="down to the least there may be"),
        pytest.param((300, 300), (200, 0), [], id="none of the new serves yet"),
        pytest.param((300, 300), (200, 100), [200], id="as many as new ones serve"),
        # 400 of the old were available before they were scaled down to 300, and their set still says so.
        pytest.param((300, 400), (200, 100), [200], id="an old set that has not reported yet"),
        pytest.param((300, 280), (200, 100), [200], id="of the old those first that do not serve"),
    ],
)
def test_old_sets_are_scaled_down(old: tuple[int, int], new: tuple[int, int], expected: list[int]) -> None:
    strategy = DeploymentStrategy(
        type="RollingUpdate", rolling_update=RollingUpdateDeployment(max_unavailable="25%", max_surge="25%")
    )
    deployment = Deployment(spec=DeploymentSpec(replicas=400, strategy=strategy))
    assert [size for _, size in scale_old(deployment, [rolling_set(*old)], rolling_set(*new))] == expected
