"""CSI volumes on a node: a real driver over gRPC, real mounts, real containers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from tests.e2e.kubelet.claims import bound, using
from tests.e2e.kubelet.csi_driver import Driver
from tests.e2e.kubelet.node import TestNode, eventually
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import Event, Node, PersistentVolume, PersistentVolumeClaim, Pod
from tiphys.api.storage.v1 import CSIDriver, CSINode, VolumeAttachment
from tiphys.kubelet.csi.attach import attachment_name, unique_name
from tiphys.kubelet.mounts import mount_points
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

pytestmark = pytest.mark.root
NAME = "test.csi"


@pytest.fixture
async def driver(node: TestNode) -> AsyncIterator[Driver]:
    made = Driver(NAME, node.root / "data")
    async with made.serving(node.flags.root_dir):
        await registered(node)
        yield made


async def registered(node: TestNode, names: tuple[str, ...] = (NAME,)) -> None:
    async def there() -> bool:
        try:
            found = await node.client.get(CSINode, ObjectName("", node.name))
        except NotFoundError:
            return False
        return tuple(one.name for one in found.spec.drivers) == names

    await eventually(there, f"CSINode with {names}")


async def driver_object(node: TestNode, **spec: Any) -> None:
    document = {"metadata": {"name": NAME}, "spec": {"attachRequired": False, **spec}}
    await node.client.create(msgspec.convert(document, CSIDriver))


def volume(**more: Any) -> dict[str, Any]:
    return {"csi": {"driver": NAME, "volumeHandle": "v1", "volumeAttributes": {"color": "red"}, **more}}


def pod(volumes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    container = busybox(volumeMounts=[{"name": "data", "mountPath": "/data"}])
    return {"containers": [container], "volumes": volumes, **more}


async def test_a_driver_is_known_while_it_is_there(node: TestNode) -> None:
    made = Driver(NAME, node.root / "data")
    async with made.serving(node.flags.root_dir):
        await registered(node)
        found = await node.client.get(CSINode, ObjectName("", node.name))
        assert found.metadata.owner_references[0].kind == "Node"
        entry = found.spec.drivers[0]
        assert (entry.node_id, entry.topology_keys) == ("the-node", (f"topology.{NAME}/rack",))
        assert entry.allocatable is not None
        assert entry.allocatable.count == 7
        of_node = await node.client.get(Node, ObjectName("", node.name))
        assert json.loads(of_node.metadata.annotations["csi.volume.kubernetes.io/nodeid"]) == {NAME: "the-node"}
        assert of_node.metadata.labels[f"topology.{NAME}/rack"] == "r1"
        await eventually(lambda: done(bool(made.statuses)), "the driver is told")
        assert made.statuses[0].plugin_registered
    await registered(node, ())


async def called(driver: Driver, methods: list[str]) -> None:
    await eventually(lambda: done(driver.methods() == methods), f"{methods}, but {driver.methods()}")


def exists(path: str) -> bool:
    return Path(path).exists()


async def done(result: bool) -> bool:
    return result


async def test_a_volume_is_staged_once_and_published_for_each_pod(node: TestNode, driver: Driver) -> None:
    await driver_object(node)
    await bound(node, "disk", mountOptions=["noatime"], **volume(fsType="ext4"))
    for name in ("first", "second"):
        await node.create(name, pod(using("disk"), securityContext={"fsGroup": 2000}))
        await node.running(name)
    assert driver.methods() == ["stage", "publish", "publish"]
    staged, published = driver.last("stage"), driver.last("publish")
    assert staged.staging_target_path.endswith("/globalmount")
    assert published.staging_target_path == staged.staging_target_path
    assert published.target_path.endswith("/volumes/kubernetes.io~csi/disk/mount")
    assert (published.volume_capability.mount.fs_type, list(published.volume_capability.mount.mount_flags)) == (
        "ext4",
        ["noatime"],
    )
    assert dict(published.volume_context) == {"color": "red"}
    assert node.kubelet is not None
    assert node.kubelet.services is not None
    usage = await node.kubelet.services.volumes.usage(Path(published.target_path))
    assert usage is not None
    assert (usage.capacity, usage.used, usage.inodes) == (1000, 400, None)
    await node.exec("first", "sh", "-c", "echo kept > /data/file")
    assert await node.exec("second", "cat", "/data/file") == "kept\n"
    assert (await node.exec("second", "stat", "-c", "%g", "/data/file")).strip() == "2000"
    await node.delete("first")
    await node.gone("first")
    assert driver.methods()[3:] == ["unpublish"]
    await node.delete("second")
    await node.gone("second")
    await called(driver, ["stage", "publish", "publish", "unpublish", "unpublish", "unstage"])
    assert (driver.data / "v1" / "file").read_text() == "kept\n"
    await eventually(lambda: done(not [p for p in mount_points(node.root) if "csi" in p]), "no mount")
    await eventually(lambda: done(not exists(staged.staging_target_path)), "nothing staged")


async def test_a_mount_waits_for_the_attachment_and_holds_it(node: TestNode, driver: Driver) -> None:
    await bound(node, "disk", **volume())  # no CSIDriver: attaching is wanted
    created = await node.create("app", pod(using("disk")))
    key, name = ObjectName("", node.name), unique_name(NAME, "v1")

    async def in_use() -> bool:
        return (await node.client.get(Node, key)).status.volumes_in_use == (name,)

    await eventually(in_use, "the volume in use")
    assert driver.methods() == []
    attachment = attachment_name(NAME, "v1", node.name)
    spec = {"attacher": NAME, "nodeName": node.name, "source": {"persistentVolumeName": "disk"}}
    await node.client.create(msgspec.convert({"metadata": {"name": attachment}, "spec": spec}, VolumeAttachment))
    status = {"status": {"attached": True, "attachmentMetadata": {"device": "/dev/x"}}}
    await node.client.patch(VolumeAttachment, ObjectName("", attachment), status, subresource="status")
    listed = {"status": {"volumesAttached": [{"name": name, "devicePath": ""}]}}
    await node.client.patch(Node, key, listed, subresource="status")
    await node.running("app")
    assert dict(driver.last("stage").publish_context) == {"device": "/dev/x"}
    assert dict(driver.last("publish").publish_context) == {"device": "/dev/x"}
    # The next kubelet still holds it.
    await node.stop_kubelet()
    await node.start_kubelet()
    await registered(node)
    assert await in_use()
    await node.delete("app")
    await node.gone("app")
    await called(driver, ["stage", "publish", "unpublish", "unstage"])

    async def not_in_use() -> bool:
        return not (await node.client.get(Node, key)).status.volumes_in_use

    await eventually(not_in_use, f"nothing of {created.metadata.uid} in use")


async def test_an_inline_volume_knows_its_pod_and_has_its_tokens(node: TestNode, driver: Driver) -> None:
    await driver_object(
        node,
        volumeLifecycleModes=["Ephemeral"],
        podInfoOnMount=True,
        tokenRequests=[{"audience": "vault"}],
    )
    inline = {"name": "data", "csi": {"driver": NAME, "readOnly": True, "volumeAttributes": {"size": "1"}}}
    made = await node.create("app", pod([inline], serviceAccountName="default"))
    await node.running("app")
    assert driver.methods() == ["publish"]
    request = driver.last("publish")
    assert request.readonly
    assert request.volume_id.startswith("csi-")
    context = dict(request.volume_context)
    tokens = json.loads(context.pop("csi.storage.k8s.io/serviceAccount.tokens"))
    assert tokens["vault"]["token"].count(".") == 2
    assert context == {
        "size": "1",
        "csi.storage.k8s.io/pod.name": "app",
        "csi.storage.k8s.io/pod.namespace": "default",
        "csi.storage.k8s.io/pod.uid": made.metadata.uid,
        "csi.storage.k8s.io/serviceAccount.name": "default",
        "csi.storage.k8s.io/ephemeral": "true",
    }
    await node.delete("app")
    await node.gone("app")
    assert driver.methods() == ["publish", "unpublish"]


async def test_a_driver_of_persistent_volumes_is_not_asked_for_inline_ones(node: TestNode, driver: Driver) -> None:
    await driver_object(node)
    await node.create("app", pod([{"name": "data", "csi": {"driver": NAME}}]))
    said = await node.event("app", "FailedMount")
    assert f'volume mode "Ephemeral" not supported by driver {NAME} (only supports ["Persistent"])' in said
    assert driver.methods() == []


async def test_a_driver_that_is_not_there_is_waited_for(node: TestNode) -> None:
    await driver_object(node)
    await bound(node, "disk", **volume())
    await node.create("app", pod(using("disk")))
    said = await node.event("app", "FailedMount")
    assert f"driver name {NAME} not found in the list of registered CSI drivers" in said
    async with Driver(NAME, node.root / "data").serving(node.flags.root_dir):
        await node.running("app")
        await node.delete("app")
        await node.gone("app")


async def answered(node: TestNode, times: int) -> bool:
    """Whether the kubelet has told of that many failures."""
    listed = await node.client.list(Event, namespace="default")
    return sum(one.count for one in listed.items if one.reason == "FailedMount") >= times


@pytest.mark.parametrize(
    ("code", "undone"),
    [
        pytest.param(grpc.StatusCode.INVALID_ARGUMENT, [], id="failed for good: nothing to undo"),
        pytest.param(grpc.StatusCode.ABORTED, ["unstage"], id="perhaps done: undone"),
    ],
)
async def test_what_failed_is_undone_where_it_may_have_happened(
    node: TestNode, driver: Driver, code: grpc.StatusCode, undone: list[str]
) -> None:
    await driver_object(node)
    await bound(node, "disk", **volume())
    driver.failures["stage"] = [code] * 100
    await node.create("app", pod(using("disk")))
    said = await node.event("app", "FailedMount")
    assert "stage is told to fail" in said
    # Four times, so that the fifth is four seconds away: a call that the pod's end interrupts may have been done.
    await eventually(lambda: done(driver.methods().count("stage") == 4), "failed four times")
    await eventually(lambda: answered(node, 4), "the kubelet knows")
    await node.delete("app")
    await node.gone("app")
    await eventually(lambda: done([one for one in driver.methods() if one != "stage"] == undone), "undone")


async def test_a_volume_that_grew_grows_in_the_running_pod(node: TestNode, driver: Driver) -> None:
    await driver_object(node)
    await bound(node, "disk", **volume())
    await node.create("app", pod(using("disk")))
    await node.running("app")
    size = {"spec": {"capacity": {"storage": "32Mi"}}}
    await node.client.patch(PersistentVolume, ObjectName("", "disk"), size)
    # A label is shown by the downward API, so volumes are looked at: no need to wait for their turn.
    await node.client.patch(Pod, ObjectName("default", "app"), {"metadata": {"labels": {"a": "b"}}})

    async def grown() -> bool:
        claim = await node.client.get(PersistentVolumeClaim, ObjectName("default", "disk"))
        return claim.status.capacity["storage"] == "32Mi"

    await eventually(grown, "the claim says so")
    request = driver.last("expand")
    assert request.capacity_range.required_bytes == 32 << 20
    assert request.staging_target_path.endswith("/globalmount")
    assert request.volume_path.endswith("/mount")
    assert "NodeExpandVolume succeeded" in await node.event("app", "FileSystemResizeSuccessful")
    await node.delete("app")
    await node.gone("app")


async def test_a_device_of_a_driver(node: TestNode, driver: Driver) -> None:
    await driver_object(node)
    await bound(node, "raw", volumeMode="Block", **volume(volumeAttributes={"device": "/dev/zero"}))
    container = busybox(volumeDevices=[{"name": "data", "devicePath": "/dev/given"}])
    made = await node.create("app", {"containers": [container], "volumes": using("raw")})
    await node.running("app")
    request = driver.last("publish")
    assert request.volume_capability.HasField("block")
    assert request.target_path.endswith(f"/volumeDevices/publish/raw/{made.metadata.uid}")
    assert (await node.exec("app", "head", "-c", "3", "/dev/given")) == "\0\0\0"
    await node.delete("app")
    await node.gone("app")
    await called(driver, ["stage", "publish", "unpublish", "unstage"])
    assert not exists(request.target_path)


async def test_a_driver_that_comes_to_need_no_attaching_is_not_waited_for(node: TestNode, driver: Driver) -> None:
    await bound(node, "disk", **volume())
    await node.create("app", pod(using("disk")))
    key = ObjectName("", node.name)

    async def in_use() -> bool:
        return bool((await node.client.get(Node, key)).status.volumes_in_use)

    await eventually(in_use, "the volume in use")
    await driver_object(node)
    await node.running("app")

    async def not_in_use() -> bool:
        return not await in_use()

    await eventually(not_in_use, "nothing held")
    await node.delete("app")
    await node.gone("app")


async def test_a_pod_does_not_wait_for_a_driver_that_cannot_unstage(node: TestNode, driver: Driver) -> None:
    await driver_object(node)
    await bound(node, "disk", **volume())
    driver.failures["unstage"] = [grpc.StatusCode.INTERNAL] * 2
    await node.create("first", pod(using("disk")))
    await node.running("first")
    await node.delete("first")
    await node.gone("first")
    await eventually(lambda: done("unstage" in driver.methods()), "unstage tried")
    await node.create("second", pod(using("disk")))
    await node.running("second")
    calls = driver.methods()
    assert calls[:4] == ["stage", "publish", "unpublish", "unstage"]
    assert [one for one in calls[4:] if one != "unstage"] == ["stage", "publish"]  # it is not sure any more
    # The next kubelet undoes what this one could not.
    driver.failures["unstage"] = [grpc.StatusCode.INTERNAL] * 1000
    await node.delete("second")
    await node.gone("second")
    await node.stop_kubelet()
    driver.failures.clear()
    driver.calls.clear()
    await node.start_kubelet()
    await called(driver, ["unstage"])
