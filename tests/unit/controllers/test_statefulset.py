"""The StatefulSet controller: order, identity, updates with a partition, claims, faults."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.controllers.harness import PODS, World, names, template
from tiphys.controllers.statefulset import StatefulSetController

SETS = "/apis/apps/v1/statefulsets"
CLAIMS = "/api/v1/persistentvolumeclaims"


def stateful(replicas: int = 3, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {
            "serviceName": "s",
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "a"}},
            "template": template(),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "podManagementPolicy": "OrderedReady",
            "revisionHistoryLimit": 10,
            **spec,
        },
        "status": {},
    }


def claim_template() -> dict[str, Any]:
    return {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}


def status(world: World) -> dict[str, Any]:
    found = world.api.get(SETS, "default", "s")
    assert found is not None
    return found["status"]


def images(world: World) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in world.api.list(PODS)}


async def test_pods_come_one_by_one_with_their_identity() -> None:
    world = World()
    world.api.put(SETS, stateful(volumeClaimTemplates=[claim_template()]))
    seen: list[list[str]] = []
    async with world.running(StatefulSetController):
        for _ in range(60):
            await world.clock.advance(0.25)
            current = names(world.api.list(PODS))
            if not seen or seen[-1] != current:
                seen.append(current)
    assert seen == [["s-0"], ["s-0", "s-1"], ["s-0", "s-1", "s-2"]]
    pod = world.api.get(PODS, "default", "s-1")
    assert pod is not None
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("s-1", "s")
    assert pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "s-1"
    assert pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "1"
    assert pod["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-s-1"}}]
    assert names(world.api.list(CLAIMS)) == ["data-s-0", "data-s-1", "data-s-2"]
    found = status(world)
    assert found["currentRevision"] == found["updateRevision"] == pod["metadata"]["labels"]["controller-revision-hash"]
    assert (found["replicas"], found["readyReplicas"], found["currentReplicas"]) == (3, 3, 3)
    assert ("SuccessfulCreate", "create Pod s-0 in StatefulSet s successful") in world.events()


async def test_scaling_down_takes_the_last_first() -> None:
    world = World()
    world.api.put(SETS, stateful())
    async with world.running(StatefulSetController):
        await world.settle()
        world.api.change(SETS, "default", "s", {"spec": {"replicas": 1}})
        seen = []
        for _ in range(40):
            await world.clock.advance(0.25)
            deleting = names([pod for pod in world.api.list(PODS) if "deletionTimestamp" not in pod["metadata"]])
            if not seen or seen[-1] != deleting:
                seen.append(deleting)
    assert seen == [["s-0", "s-1", "s-2"], ["s-0", "s-1"], ["s-0"]] or seen == [["s-0", "s-1"], ["s-0"]]


@pytest.mark.parametrize(
    ("sick", "left"),
    [
        pytest.param((), [], id="none: all go"),
        pytest.param(("s-0",), [], id="the last to go"),
        pytest.param(("s-0", "s-2"), ["s-0", "s-1", "s-2"], id="the first to go waits for the one before it"),
        pytest.param(("s-2",), [], id="the first to go, and all before it serve"),
        pytest.param(("s-0", "s-1"), ["s-0", "s-1"], id="one that serves goes, the next waits"),
    ],
)
async def test_scaling_to_zero_waits_for_pods_that_do_not_serve(sick: tuple[str, ...], left: list[str]) -> None:
    world = World()
    world.api.put(SETS, stateful())
    async with world.running(StatefulSetController):
        await world.settle()
        for name in sick:
            world.api.change(PODS, "default", name, {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
        await world.settle()
        world.api.change(SETS, "default", "s", {"spec": {"replicas": 0}})
        await world.settle()
    assert names(world.api.list(PODS)) == left


async def test_parallel_makes_all_at_once_from_the_first_ordinal() -> None:
    world = World()
    world.api.put(SETS, stateful(podManagementPolicy="Parallel", ordinals={"start": 2}))
    async with world.running(StatefulSetController, kubelet=False):
        await world.pass_time(2)
    assert names(world.api.list(PODS)) == ["s-2", "s-3", "s-4"]


async def test_an_update_goes_down_to_the_partition_and_then_on() -> None:
    world = World()
    world.api.put(SETS, stateful())
    async with world.running(StatefulSetController):
        await world.settle()
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
        world.api.change(SETS, "default", "s", {"spec": {"template": template("new"), "updateStrategy": rolling}})
        await world.settle()
        assert images(world) == {"s-0": "img", "s-1": "img", "s-2": "new"}
        assert (status(world)["currentReplicas"], status(world)["updatedReplicas"]) == (2, 1)
        world.api.remove(PODS, "default", "s-0")
        await world.settle()
        assert images(world) == {"s-0": "img", "s-1": "img", "s-2": "new"}
        world.api.change(SETS, "default", "s", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})
        await world.settle()
    assert set(images(world).values()) == {"new"}
    assert status(world)["currentRevision"] == status(world)["updateRevision"]


async def test_on_delete_waits_for_the_user() -> None:
    world = World()
    world.api.put(SETS, stateful(updateStrategy={"type": "OnDelete"}))
    async with world.running(StatefulSetController):
        await world.settle()
        world.api.change(SETS, "default", "s", {"spec": {"template": template("new")}})
        await world.settle()
        assert set(images(world).values()) == {"img"}
        world.api.remove(PODS, "default", "s-1")
        await world.settle()
    assert images(world) == {"s-0": "img", "s-1": "new", "s-2": "img"}


async def test_a_failed_pod_is_made_again_under_its_name() -> None:
    world = World()
    world.api.put(SETS, stateful(1))
    async with world.running(StatefulSetController):
        await world.settle()
        before = world.api.get(PODS, "default", "s-0")
        world.api.change(PODS, "default", "s-0", {"status": {"phase": "Failed"}})
        await world.settle()
    after = world.api.get(PODS, "default", "s-0")
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


async def test_claims_follow_the_retention_policy() -> None:
    world = World()
    policy = {"whenDeleted": "Delete", "whenScaled": "Delete"}
    world.api.put(SETS, stateful(volumeClaimTemplates=[claim_template()], persistentVolumeClaimRetentionPolicy=policy))
    async with world.running(StatefulSetController):
        await world.settle()
        claim = world.api.get(CLAIMS, "default", "data-s-2")
        assert claim is not None
        assert [owner["kind"] for owner in claim["metadata"]["ownerReferences"]] == ["StatefulSet"]
        world.api.change(PODS, "default", "s-2", {"metadata": {"finalizers": ["a.b/c"]}})
        world.api.change(SETS, "default", "s", {"spec": {"replicas": 2}})
        await world.settle()
        claim = world.api.get(CLAIMS, "default", "data-s-2")
        assert claim is not None
        assert [owner["kind"] for owner in claim["metadata"]["ownerReferences"]] == ["Pod"]


async def test_a_claim_that_another_controls_keeps_its_owners() -> None:
    world = World()
    policy = {"whenDeleted": "Delete", "whenScaled": "Delete"}
    stranger = {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u", "controller": True}
    meta = {"name": "data-s-0", "namespace": "default", "ownerReferences": [stranger]}
    world.api.put(CLAIMS, {**claim_template(), "metadata": meta})
    world.api.put(
        SETS, stateful(1, volumeClaimTemplates=[claim_template()], persistentVolumeClaimRetentionPolicy=policy)
    )
    async with world.running(StatefulSetController):
        await world.settle()
    claim = world.api.get(CLAIMS, "default", "data-s-0")
    assert claim is not None
    assert claim["metadata"]["ownerReferences"] == [stranger]


async def test_a_claim_lost_before_its_pod_started_is_made_again() -> None:
    world = World()
    world.runs = lambda pod: False  # type: ignore[method-assign]
    world.api.put(SETS, stateful(1, volumeClaimTemplates=[claim_template()]))
    async with world.running(StatefulSetController):
        await world.settle()
        world.api.change(PODS, "default", "s-0", {"status": {"phase": "Pending"}})
        world.api.remove(CLAIMS, "default", "data-s-0")
        await world.settle()
    assert names(world.api.list(CLAIMS)) == ["data-s-0"]


async def test_a_pod_waits_for_its_old_claim_to_be_gone() -> None:
    world = World()
    gone = {"name": "data-s-0", "namespace": "default", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    world.api.put(CLAIMS, {**claim_template(), "metadata": gone})
    world.api.put(SETS, stateful(1, volumeClaimTemplates=[claim_template()]))
    async with world.running(StatefulSetController):
        await world.settle()
        assert names(world.api.list(PODS)) == []
        world.api.remove(CLAIMS, "default", "data-s-0")
        await world.settle()
    assert (names(world.api.list(PODS)), names(world.api.list(CLAIMS))) == (["s-0"], ["data-s-0"])


async def test_below_the_partition_the_old_revision_returns_even_when_no_pod_of_it_is_left() -> None:
    world = World()
    partitioned = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    world.api.put(SETS, stateful(2, updateStrategy=partitioned))
    async with world.running(StatefulSetController):
        await world.settle()
        world.api.change(SETS, "default", "s", {"spec": {"template": template("new")}})
        await world.settle()
        world.api.remove(PODS, "default", "s-0")
        await world.settle()
    assert images(world) == {"s-0": "img", "s-1": "new"}


@pytest.mark.parametrize("seed", range(5))
async def test_an_update_ends_right_through_faults_and_restarts(seed: int) -> None:
    world = World(faults=seed)
    world.api.put(SETS, stateful(4))
    async with world.running(StatefulSetController):
        await world.pass_time(40)
        world.api.change(SETS, "default", "s", {"spec": {"template": template("new")}})
        await world.pass_time(10)
    async with world.running(StatefulSetController):
        await world.pass_time(20)
        world.faulty.heal()
        await world.settle(seconds=120, step=1)
    assert images(world) == {f"s-{i}": "new" for i in range(4)}
    assert status(world)["currentRevision"] == status(world)["updateRevision"]
