"""Which volume a claim gets, how both are bound, and what becomes of them afterwards."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.controllers.harness import Json, World, names, pod
from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.controllers.persistentvolume import PersistentVolumeBinder
from tiphys.controllers.persistentvolume.match import best
from tiphys.controllers.volumeprotection import PVCProtectionController, PVProtectionController

VOLUMES = "/api/v1/persistentvolumes"
CLAIMS = "/api/v1/persistentvolumeclaims"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
PODS = "/api/v1/pods"


def volume(name: str, size: str = "1Gi", modes: tuple[str, ...] = ("ReadWriteOnce",), **spec: Any) -> Json:
    status = {"phase": spec.pop("phase", "Available")}
    labels = spec.pop("labels", {})
    spec = {
        "capacity": {"storage": size},
        "accessModes": list(modes),
        "storageClassName": "manual",
        "persistentVolumeReclaimPolicy": "Retain",
        **spec,
    }
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}


def claim(name: str = "c", size: str = "1Gi", mode: str = "ReadWriteOnce", **spec: Any) -> Json:
    annotations = spec.pop("annotations", {})
    base = {"accessModes": [mode], "storageClassName": "manual", "resources": {"requests": {"storage": size}}}
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "annotations": annotations}
    return {"metadata": metadata, "spec": base | spec, "status": {}}


def ref(name: str = "c", uid: str = "") -> Json:
    return {"namespace": "default", "name": name, "uid": uid}


@pytest.mark.parametrize(
    ("volumes", "wanted", "chosen"),
    [
        pytest.param([volume("big", "5Gi"), volume("fits", "2Gi"), volume("small", "1Mi")], {}, "fits", id="smallest"),
        pytest.param(
            [volume("rw", "1Gi", ("ReadWriteOnce", "ReadWriteMany")), volume("one", "9Gi")], {}, "one", id="least modes"
        ),
        pytest.param([volume("a")], {"mode": "ReadWriteMany"}, None, id="access mode"),
        pytest.param([volume("a", storageClassName="other")], {}, None, id="class"),
        pytest.param([volume("a", volumeMode="Block")], {}, None, id="mode"),
        pytest.param([volume("a", phase="Released")], {}, None, id="not free"),
        pytest.param([volume("a", claimRef=ref("other"))], {}, None, id="someone else's"),
        pytest.param([volume("a"), volume("mine", "9Gi", claimRef=ref())], {}, "mine", id="prebound"),
        pytest.param([volume("gone", claimRef=ref(uid="old"))], {}, None, id="of an earlier claim of the name"),
        pytest.param(
            [volume("a"), volume("b", "9Gi", labels={"x": "y"})],
            {"selector": {"matchLabels": {"x": "y"}}},
            "b",
            id="selector",
        ),
        pytest.param([volume("a", volumeAttributesClassName="gold")], {}, None, id="attributes class"),
    ],
)
def test_the_volume_of_a_claim(volumes: list[Json], wanted: Json, chosen: str | None) -> None:
    found = best(
        msgspec.convert(volumes, list[PersistentVolume]), msgspec.convert(claim(**wanted), PersistentVolumeClaim)
    )
    assert (found.metadata.name if found else None) == chosen


def phases(world: World) -> dict[str, str]:
    both = [*world.api.list(CLAIMS), *world.api.list(VOLUMES)]
    return {obj["metadata"]["name"]: obj["status"].get("phase", "") for obj in both}


async def test_claim_and_volume_find_each_other_and_part_again() -> None:
    world = World()
    world.api.put(VOLUMES, volume("v", phase="Pending"))
    async with world.running(PersistentVolumeBinder):
        await world.settle()
        assert phases(world) == {"v": "Available"}
        world.api.put(CLAIMS, claim())
        await world.settle()
        assert phases(world) == {"c": "Bound", "v": "Bound"}
        bound = world.api.objects[CLAIMS]["default", "c"]
        assert bound["metadata"]["annotations"] == {
            "pv.kubernetes.io/bind-completed": "yes",
            "pv.kubernetes.io/bound-by-controller": "yes",
        }
        assert bound["spec"]["volumeName"] == "v"
        assert bound["status"]["capacity"] == {"storage": "1Gi"}
        assert world.api.list(VOLUMES)[0]["spec"]["claimRef"]["uid"] == bound["metadata"]["uid"]
        world.api.remove(CLAIMS, "default", "c")
        await world.settle()
        assert phases(world) == {"v": "Released"}


@pytest.mark.parametrize(
    ("volumes", "one", "classes", "phase", "reason"),
    [
        pytest.param([], claim(storageClassName=""), [], "Pending", "FailedBinding", id="nothing there"),
        pytest.param([], claim(), [], "Pending", "ProvisioningFailed", id="no such class"),
        pytest.param([], claim(), [{"provisioner": "x/y"}], "Pending", "ExternalProvisioning", id="provisioner"),
        pytest.param(
            [volume("v")],
            claim(),
            [{"provisioner": "x/y", "volumeBindingMode": "WaitForFirstConsumer"}],
            "Pending",
            "WaitForFirstConsumer",
            id="waits for a pod",
        ),
        pytest.param([volume("v", "1Mi")], claim(volumeName="v"), [], "Pending", "VolumeMismatch", id="too small"),
        pytest.param(
            [volume("v", claimRef=ref("o", "u"))], claim(volumeName="v"), [], "Pending", "FailedBinding", id="taken"
        ),
        pytest.param(
            [],
            claim(volumeName="v", annotations={"pv.kubernetes.io/bind-completed": "yes"}),
            [],
            "Lost",
            "ClaimLost",
            id="volume gone",
        ),
        pytest.param(
            [volume("v", claimRef=ref("o", "u"))],
            claim(volumeName="v", annotations={"pv.kubernetes.io/bind-completed": "yes"}),
            [],
            "Lost",
            "ClaimMisbound",
            id="volume of another",
        ),
    ],
)
async def test_why_a_claim_has_no_volume(
    volumes: list[Json], one: Json, classes: list[Json], phase: str, reason: str
) -> None:
    world = World()
    for obj in volumes:
        world.api.put(VOLUMES, obj)
    for obj in classes:
        world.api.put(CLASSES, {"metadata": {"name": "manual"}, **obj})
    world.api.put(CLAIMS, one)
    async with world.running(PersistentVolumeBinder):
        await world.pass_time(3)
    assert world.api.list(CLAIMS)[0]["status"]["phase"] == phase
    assert [found for found, _ in world.events()][:1] == [reason]


async def test_a_claim_that_waits_is_bound_to_what_the_scheduler_chose() -> None:
    world = World()
    world.api.put(CLASSES, {"metadata": {"name": "manual"}, "volumeBindingMode": "WaitForFirstConsumer"})
    for name in ("a", "b"):
        world.api.put(VOLUMES, volume(name))
    world.api.put(CLAIMS, claim())
    waiting = pod("p", node="")
    waiting["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    world.api.put(PODS, waiting)
    async with world.running(PersistentVolumeBinder, kubelet=False):
        await world.pass_time(2)
        assert world.events() == [("WaitForPodScheduled", "waiting for pod p to be scheduled")]
        uid = world.api.list(CLAIMS)[0]["metadata"]["uid"]
        world.api.change(VOLUMES, "", "b", {"spec": {"claimRef": ref(uid=uid)}})
        await world.pass_time(2)
    assert phases(world) == {"a": "Available", "b": "Bound", "c": "Bound"}


async def test_a_claim_without_a_class_gets_the_default_and_is_never_given_it_against_its_will() -> None:
    world = World()
    world.api.put(CLAIMS, claim("nil", storageClassName=None))
    world.api.put(CLAIMS, claim("none", storageClassName=""))
    async with world.running(PersistentVolumeBinder):
        await world.pass_time(2)
        marked = {"storageclass.kubernetes.io/is-default-class": "true"}
        world.api.put(CLASSES, {"metadata": {"name": "std", "annotations": marked}, "provisioner": "x/y"})
        await world.pass_time(2)
    classes = {one["metadata"]["name"]: one["spec"].get("storageClassName") for one in world.api.list(CLAIMS)}
    assert classes == {"nil": "std", "none": ""}


@pytest.mark.parametrize(
    ("policy", "phase"), [("Retain", "Released"), ("Delete", "Failed"), ("Recycle", "Failed")], ids=str
)
async def test_what_nobody_made_nobody_deletes(policy: str, phase: str) -> None:
    world = World()
    world.api.put(VOLUMES, volume("v", claimRef=ref(uid="gone"), persistentVolumeReclaimPolicy=policy, phase="Bound"))
    async with world.running(PersistentVolumeBinder):
        await world.settle()
    assert phases(world) == {"v": phase}


@pytest.mark.parametrize("seed", range(4))
async def test_every_claim_has_one_volume_and_no_volume_two_claims_through_faults_and_restarts(seed: int) -> None:
    world = World(faults=seed)
    controllers = (PersistentVolumeBinder, PVCProtectionController, PVProtectionController)
    for i in range(8):
        world.api.put(VOLUMES, volume(f"v{i}", f"{i + 1}Gi", phase="Pending"))
    for i in range(6):
        world.api.put(CLAIMS, claim(f"c{i}", f"{i + 1}Gi"))
    async with world.running(*controllers):
        await world.pass_time(5)
        world.api.put(CLAIMS, claim("late"))
    async with world.running(*controllers):
        await world.pass_time(40)
        world.faulty.heal()
        await world.pass_time(120)
    claims = {one["metadata"]["name"]: one for one in world.api.list(CLAIMS)}
    given = {name: one["spec"].get("volumeName") for name, one in claims.items()}
    assert {one["status"]["phase"] for one in claims.values()} == {"Bound"}
    assert len(set(given.values())) == len(given) == 7
    bound = [one for one in world.api.list(VOLUMES) if one["status"]["phase"] == "Bound"]
    assert {one["spec"]["claimRef"]["name"]: one["metadata"]["name"] for one in bound} == given
    assert len(names(world.api.list(VOLUMES))) == 8
