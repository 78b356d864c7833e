"""Volumes are attached where pods need them, one node at a time, and detached after the last."""

from __future__ import annotations

import pytest

from tests.unit.controllers.harness import Json, World, pod
from tests.unit.controllers.test_persistentvolumes import CLAIMS, PODS, VOLUMES, claim, volume
from tiphys.controllers.attachdetach import AttachDetachController

NODES = "/api/v1/nodes"
ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"
DRIVERS = "/apis/storage.k8s.io/v1/csidrivers"
SILENT = {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2024-01-01T00:00:00Z"}
UNIQUE = "kubernetes.io/csi/driver^handle"


class Cluster(World):
    """Two nodes, a bound claim, and a driver that attaches what it is told to."""

    def __init__(self, faults: int | None = None) -> None:
        super().__init__(faults=faults)
        for name in ("n1", "n2"):
            self.api.put(NODES, {"metadata": {"name": name}, "spec": {}, "status": {}})
        self.api.put(CLAIMS, claim(volumeName="v"))
        self.api.put(VOLUMES, volume("v", csi={"driver": "driver", "volumeHandle": "handle"}))

    def use(self, name: str, node: str) -> None:
        user = pod(name, node=node, phase="Pending")
        user["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
        self.api.put(PODS, user)

    def attach(self) -> None:
        for found in self.api.list(ATTACHMENTS):
            self.api.change(ATTACHMENTS, "", found["metadata"]["name"], {"status": {"attached": True}})

    def places(self) -> list[str]:
        return [found["spec"]["nodeName"] for found in self.api.list(ATTACHMENTS)]

    def listed(self, node: str) -> list[Json]:
        found: list[Json] = self.api.objects[NODES]["", node]["status"].get("volumesAttached", [])
        return found


async def test_attached_listed_and_detached_once_the_kubelet_has_let_go() -> None:
    world = Cluster()
    world.use("p", "n1")
    async with world.running(AttachDetachController, kubelet=False):
        await world.pass_time(2)
        (found,) = world.api.list(ATTACHMENTS)
        # sha256 of handle, driver and node: the name drivers look for.
        assert len(found["metadata"]["name"]) == len("csi-") + 64
        assert world.listed("n1") == []
        world.attach()
        await world.pass_time(2)
        assert [one["name"] for one in world.listed("n1")] == [UNIQUE]
        assert ("SuccessfulAttachVolume", 'AttachVolume.Attach succeeded for volume "v" ') in world.events()
        world.api.change(NODES, "", "n1", {"status": {"volumesInUse": [UNIQUE]}})
        world.api.remove(PODS, "default", "p")
        await world.pass_time(30)
        assert world.places() == ["n1"]
        world.api.change(NODES, "", "n1", {"status": {"volumesInUse": []}})
        await world.pass_time(5)
    assert world.places() == []
    assert world.listed("n1") == []


async def test_a_volume_for_one_node_waits_for_the_other_to_let_go() -> None:
    world = Cluster()
    world.use("p", "n1")
    async with world.running(AttachDetachController, kubelet=False):
        await world.pass_time(2)
        world.use("q", "n2")
        await world.pass_time(2)
        assert world.places() == ["n1"]
        assert "FailedAttachVolume" in [reason for reason, _ in world.events()]
        world.api.remove(PODS, "default", "p")
        await world.pass_time(40)
    assert world.places() == ["n2"]


@pytest.mark.parametrize(
    ("node", "seconds"),
    [
        pytest.param({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service"}]}}, 20, id="out of service"),
        pytest.param(
            {
                "status": {
                    "conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2024-01-01T00:00:00Z"}]
                }
            },
            400,
            id="silent for six minutes",
        ),
    ],
)
async def test_a_node_that_cannot_let_go_is_not_waited_for(node: Json, seconds: int) -> None:
    world = Cluster()
    world.use("p", "n1")
    world.api.change(NODES, "", "n1", {"status": {"volumesInUse": [UNIQUE]}})
    async with world.running(AttachDetachController, kubelet=False):
        await world.pass_time(2)
        world.attach()
        world.api.remove(PODS, "default", "p")
        world.api.change(NODES, "", "n1", node)
        await world.pass_time(seconds, step=5)
    assert world.places() == []


async def test_a_driver_that_needs_no_attaching_gets_none() -> None:
    world = Cluster()
    world.api.put(DRIVERS, {"metadata": {"name": "driver"}, "spec": {"attachRequired": False}})
    world.use("p", "n1")
    async with world.running(AttachDetachController, kubelet=False):
        await world.pass_time(5)
    assert world.places() == []


async def test_a_driver_that_comes_to_need_no_attaching_is_detached() -> None:
    world = Cluster()
    world.use("p", "n1")
    async with world.running(AttachDetachController, kubelet=False):
        await world.pass_time(2)
        assert world.places() == ["n1"]
        world.api.put(DRIVERS, {"metadata": {"name": "driver"}, "spec": {"attachRequired": False}})
        await world.pass_time(2)
        assert world.places() == []
        world.api.change(DRIVERS, "", "driver", {"spec": {"attachRequired": True}})
        await world.pass_time(2)
    assert world.places() == ["n1"]


async def test_why_attaching_failed_is_said_at_the_pod() -> None:
    world = Cluster()
    world.use("p", "n1")
    async with world.running(AttachDetachController, kubelet=False):
        await world.pass_time(2)
        (found,) = world.api.list(ATTACHMENTS)
        failed = {"status": {"attached": False, "attachError": {"message": "no room"}}}
        world.api.change(ATTACHMENTS, "", found["metadata"]["name"], failed)
        await world.pass_time(2)
    assert ("FailedAttachVolume", 'AttachVolume.Attach failed for volume "v" : no room') in world.events()


async def test_that_nobody_attaches_is_said_after_two_minutes() -> None:
    world = Cluster()
    world.use("p", "n1")
    said = (
        'AttachVolume.Attach failed for volume "v" : timed out waiting for external-attacher of driver CSI driver '
        "to attach volume handle"
    )
    async with world.running(AttachDetachController, kubelet=False):
        await world.pass_time(100, step=5)
        assert ("FailedAttachVolume", said) not in world.events()
        await world.pass_time(30, step=5)
        assert ("FailedAttachVolume", said) in world.events()
