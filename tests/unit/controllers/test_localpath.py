"""Directories as volumes: made on the chosen node, removed with the claim, never one left or lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.controllers.harness import Json, World
from tests.unit.controllers.test_persistentvolumes import CLAIMS, CLASSES, PODS, VOLUMES, claim, phases
from tiphys.api.core.v1 import PersistentVolumeClaim
from tiphys.controllers.common.context import Options
from tiphys.controllers.localpath import LocalPathProvisioner
from tiphys.controllers.localpath.helper import Action, helper
from tiphys.controllers.localpath.manifests import storage_class
from tiphys.controllers.localpath.volumes import refusal
from tiphys.controllers.persistentvolume import PersistentVolumeBinder
from tiphys.controllers.volumeprotection import PVProtectionController

NODES = "/api/v1/nodes"
CONTROLLERS = (PersistentVolumeBinder, LocalPathProvisioner, PVProtectionController)
SELECTED = {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}


class Disk(World):
    """A world whose kubelet does what helper pods are for, on a set of paths."""

    def __init__(self, **options: Any) -> None:
        super().__init__(options=Options(local_path_directory="/v/{node}"), **options)
        self.directories: set[str] = set()
        self.broken = 0  # how many helpers fail from now on
        self.api.put(NODES, {"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "host1"}}})
        self.api.put(CLASSES, storage_class())

    def ends(self, pod: Json) -> str:
        if self.broken:
            self.broken -= 1
            return "Failed"
        (container,) = pod["spec"]["containers"]
        (volume,) = pod["spec"]["volumes"]
        path = f"{volume['hostPath']['path']}/{container['command'][-1].rpartition('/')[2]}"
        if pod["metadata"]["name"].startswith("local-path-create"):
            self.directories.add(path)
        else:
            self.directories.discard(path)
        return "Succeeded"


def wanted(name: str = "c", **more: Any) -> Json:
    return claim(name, storageClassName="local-path", **(SELECTED | more))


async def test_a_claim_gets_a_directory_on_its_node_and_takes_it_along() -> None:
    world = Disk()
    world.api.put(CLAIMS, wanted())
    async with world.running(*CONTROLLERS):
        await world.pass_time(10)
        (made,) = world.api.list(VOLUMES)
        name = f"pvc-{world.api.list(CLAIMS)[0]['metadata']['uid']}"
        assert phases(world) == {"c": "Bound", name: "Bound"}
        assert world.directories == {f"/v/n1/{name}_default_c"}
        assert made["spec"]["local"] == {"path": f"/v/n1/{name}_default_c"}
        (term,) = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert term["matchExpressions"] == [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["host1"]}]
        assert world.api.list(PODS) == []
        world.api.remove(CLAIMS, "default", "c")
        await world.pass_time(20)
    assert (world.api.list(VOLUMES), world.directories, world.api.list(PODS)) == ([], set(), [])


async def test_nothing_is_made_before_the_scheduler_has_chosen() -> None:
    world = Disk()
    world.api.put(CLAIMS, claim(storageClassName="local-path"))
    async with world.running(*CONTROLLERS):
        await world.pass_time(10)
    assert (world.api.list(PODS), world.directories) == ([], set())


async def test_a_failing_helper_is_repeated() -> None:
    world = Disk()
    world.broken = 2
    world.api.put(CLAIMS, wanted())
    async with world.running(*CONTROLLERS):
        await world.pass_time(60)
    assert len(world.directories) == 1
    assert "ProvisioningFailed" in [reason for reason, _ in world.events()]


async def test_a_node_that_vanished_is_chosen_anew_and_does_not_hold_a_volume_back() -> None:
    world = Disk()
    world.api.put(CLAIMS, wanted(annotations={"volume.kubernetes.io/selected-node": "gone"}))
    world.api.put(CLAIMS, wanted("there"))
    async with world.running(*CONTROLLERS):
        await world.pass_time(10)
        annotations = world.api.objects[CLAIMS]["default", "c"]["metadata"]["annotations"]
        assert "volume.kubernetes.io/selected-node" not in annotations
        world.api.remove(NODES, "", "n1")
        world.api.remove(CLAIMS, "default", "there")
        await world.pass_time(10)
    assert world.api.list(VOLUMES) == []
    assert "VolumeFailedDelete" in [reason for reason, _ in world.events()]


async def test_a_retained_volume_keeps_its_directory() -> None:
    world = Disk()
    world.api.change(CLASSES, "", "local-path", {"reclaimPolicy": "Retain"})
    world.api.put(CLAIMS, wanted())
    async with world.running(*CONTROLLERS):
        await world.pass_time(10)
        world.api.remove(CLAIMS, "default", "c")
        await world.pass_time(10)
    assert [one["status"]["phase"] for one in world.api.list(VOLUMES)] == ["Released"]
    assert len(world.directories) == 1


async def test_a_claim_deleted_meanwhile_leaves_nothing() -> None:
    world = Disk()
    world.api.put(CLAIMS, wanted())
    async with world.running(*CONTROLLERS):
        while not world.directories:
            await world.clock.advance(0.25)
        world.api.remove(CLAIMS, "default", "c")
        await world.pass_time(40)
    assert (world.api.list(VOLUMES), world.directories, world.api.list(PODS)) == ([], set(), [])


@pytest.mark.parametrize("seed", range(4))
async def test_directories_are_those_of_the_claims_through_faults_and_restarts(seed: int) -> None:
    world = Disk(faults=seed)
    for i in range(4):
        world.api.put(CLAIMS, wanted(f"c{i}"))
    async with world.running(*CONTROLLERS):
        await world.pass_time(4)
        world.api.remove(CLAIMS, "default", "c0")
    async with world.running(*CONTROLLERS):
        await world.pass_time(30)
        world.api.remove(CLAIMS, "default", "c1")
        await world.pass_time(30)
        world.faulty.heal()
        await world.pass_time(120)
    uids = {one["metadata"]["uid"]: one["metadata"]["name"] for one in world.api.list(CLAIMS)}
    assert world.directories == {f"/v/n1/pvc-{uid}_default_{name}" for uid, name in uids.items()}
    assert {one["metadata"]["name"] for one in world.api.list(VOLUMES)} == {f"pvc-{uid}" for uid in uids}
    assert world.api.list(PODS) == []


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        pytest.param({}, "", id="a directory can be that"),
        pytest.param({"volumeMode": "Block"}, "block volumes are not supported", id="block"),
        pytest.param({"selector": {}}, "claim.Spec.Selector is not supported", id="selector"),
        pytest.param(
            {"mode": "ReadWriteMany"},
            "only ReadWriteOnce and ReadWriteOncePod are supported, not ReadWriteMany",
            id="shared by nodes",
        ),
    ],
)
def test_what_a_directory_cannot_be(spec: Json, text: str) -> None:
    assert refusal(msgspec.convert(claim(**spec), PersistentVolumeClaim)) == text


@pytest.mark.parametrize("path", ["", "relative/x", "/", "/v/..", "/v/"])
def test_a_helper_takes_only_an_entry_of_a_directory(path: str) -> None:
    with pytest.raises(ValueError, match="is not the path of a volume"):
        helper(Action.DELETE, volume="v", claim="", node="n", path=path, image="i")


def test_the_helpers_do_what_they_say(tmp_path: Path) -> None:
    entry = tmp_path / "v"

    def run(action: Action) -> None:
        pod = helper(action, volume="v", claim="", node="n", path="/x/v", image="i")
        _, _, script, _ = pod.spec.containers[0].command
        subprocess.run([sys.executable, "-c", script, str(entry)], check=True)

    for _ in range(2):  # a repetition changes nothing
        run(Action.CREATE)
    assert entry.stat().st_mode & 0o777 == 0o777
    (entry / "file").write_text("x")
    os.symlink("/", entry / "link")
    for _ in range(2):
        run(Action.DELETE)
    assert not entry.exists()
