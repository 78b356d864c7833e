"""Device plugins: registration, capacity, devices in containers, refusals, health, restarts, pod resources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.e2e.kubelet.device_plugin import NO_PROXY, Plugin, register
from tests.e2e.kubelet.node import TestNode, eventually
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import Node
from tiphys.api.deviceplugin import api_pb2 as plugin
from tiphys.api.podresources import api_pb2 as podresources
from tiphys.api.podresources import api_pb2_grpc
from tiphys.machinery.meta import ObjectName

pytestmark = pytest.mark.root
RESOURCE = "vendor.example/frob"


def directory(node: TestNode) -> Path:
    return node.root / "kubelet" / "device-plugins"


@pytest.fixture
async def frobs(node: TestNode) -> AsyncIterator[Plugin]:
    """Three devices; a container gets /dev/zero as /dev/frob, a file and an annotation."""
    shown = node.root / "driver.txt"
    shown.write_text("of the driver")
    response = plugin.ContainerAllocateResponse(
        mounts=[plugin.Mount(container_path="/driver.txt", host_path=str(shown), read_only=True)],
        devices=[plugin.DeviceSpec(container_path="/dev/frob", host_path="/dev/zero", permissions="r")],
        annotations={"vendor.example/note": "hello"},
    )
    found = Plugin(RESOURCE, {"a": True, "b": True, "c": False}, response)
    async with found.serving(directory(node)):
        await amounts(node, "3", "2")
        yield found


async def amounts(node: TestNode, capacity: str, allocatable: str) -> None:
    async def told() -> bool:
        status = (await node.client.get(Node, ObjectName("", "node-1"))).status
        return (status.capacity.get(RESOURCE), status.allocatable.get(RESOURCE)) == (capacity, allocatable)

    await eventually(told, f"capacity {capacity}, allocatable {allocatable}")


def wanting(count: int, name: str = "app", **more: Any) -> dict[str, Any]:
    return {
        **busybox(name),
        "resources": {"limits": {RESOURCE: str(count)}, "requests": {RESOURCE: str(count)}},
        **more,
    }


async def test_a_container_gets_its_devices(node: TestNode, frobs: Plugin) -> None:
    await node.create("one", {"containers": [wanting(1)]})
    await node.running("one")
    assert await node.exec("one", "sh", "-c", "echo $DEVICES; cat /driver.txt; head -c3 /dev/frob | wc -c") == (
        "b\nof the driver3\n"
    )
    # The plugin preferred the last one of those that are well, and was asked before the start.
    assert frobs.calls == [("prefer", ["a", "b"]), ("allocate", ["b"]), ("start", ["b"])]


async def test_too_few_devices_refuse_the_pod_and_an_ended_pod_gives_its_back(node: TestNode, frobs: Plugin) -> None:
    await node.create("first", {"containers": [wanting(2)]})
    await node.running("first")
    await node.create("second", {"containers": [wanting(1)]})
    pod = await node.phase("second", "Failed")
    assert pod.status.reason == "UnexpectedAdmissionError"
    assert pod.status.message == (
        f"Pod was rejected: Allocate failed due to requested number of devices unavailable for {RESOURCE}. "
        "Requested: 1, Available: 0, which is unexpected"
    )
    await node.delete("first", grace=1)
    await node.gone("first")
    await node.create("third", {"containers": [wanting(2)]})
    await node.running("third")


async def test_init_containers_devices_are_used_again(node: TestNode, frobs: Plugin) -> None:
    first = wanting(2, "first", command=["true"])
    await node.create("again", {"initContainers": [first], "containers": [wanting(2)]})
    await node.running("again")
    assert [devices for call, devices in frobs.calls if call == "allocate"] == [["a", "b"], ["a", "b"]]


async def test_health_changes_are_seen(node: TestNode, frobs: Plugin) -> None:
    await frobs.set_health("c", True)
    await amounts(node, "3", "3")
    for device in "abc":
        await frobs.set_health(device, False)
    await amounts(node, "3", "0")
    await node.create("ill", {"containers": [wanting(1)]})
    pod = await node.phase("ill", "Failed")
    assert f"no healthy devices present; cannot allocate unhealthy devices {RESOURCE}" in (pod.status.message or "")


async def test_a_restarted_kubelet_knows_who_has_what(node: TestNode, frobs: Plugin) -> None:
    await node.create("keeps", {"containers": [wanting(1)]})
    before = await node.running("keeps")
    await node.stop_kubelet()
    await node.start_kubelet()

    async def again() -> bool:
        assert node.kubelet is not None and node.kubelet.services is not None
        healthy = node.kubelet.services.containers.devices.amounts()[1].get(RESOURCE)
        return frobs.listened_to == 2 and healthy == "2"

    await eventually(again, "the plugin, whose socket was removed, registered again")
    await amounts(node, "3", "2")
    after = await node.running("keeps")
    assert after.status.container_statuses == before.status.container_statuses
    await node.create("other", {"containers": [wanting(1)]})
    await node.running("other")
    assert [devices for call, devices in frobs.calls if call == "allocate"] == [["b"], ["a"]]


async def test_a_plugin_that_goes_leaves_its_pods_alone(node: TestNode) -> None:
    found = Plugin(RESOURCE, {"a": True}, plugin.ContainerAllocateResponse())
    async with found.serving(directory(node)):
        await amounts(node, "1", "1")
        await node.create("stays", {"containers": [wanting(1)]})
        await node.running("stays")
    await amounts(node, "1", "0")
    await node.running("stays")


async def test_pod_resources(node: TestNode, frobs: Plugin) -> None:
    await node.create("shown", {"containers": [wanting(1)]})
    await node.running("shown")
    socket = node.root / "kubelet" / "pod-resources" / "kubelet.sock"
    async with grpc.aio.insecure_channel(f"unix://{socket}", options=NO_PROXY) as channel:
        stub = api_pb2_grpc.PodResourcesListerStub(channel)
        listed = await stub.List(podresources.ListPodResourcesRequest())
        (pod,) = listed.pod_resources
        assert (pod.name, pod.namespace, pod.containers[0].name) == ("shown", "default", "app")
        assert [(d.resource_name, list(d.device_ids)) for d in pod.containers[0].devices] == [(RESOURCE, ["b"])]
        request = podresources.GetPodResourcesRequest(pod_name="shown", pod_namespace="default")
        assert (await stub.Get(request)).pod_resources == pod
        allocatable = await stub.GetAllocatableResources(podresources.AllocatableResourcesRequest())
        assert sorted(d.device_ids[0] for d in allocatable.devices) == ["a", "b"]
        with pytest.raises(grpc.aio.AioRpcError, match="pod none in namespace default not found"):
            await stub.Get(podresources.GetPodResourcesRequest(pod_name="none", pod_namespace="default"))


@pytest.mark.parametrize(
    ("resource", "version", "said"),
    [
        ("vendor.example/frob", "v1alpha", 'requested API version "v1alpha" is not supported by kubelet'),
        ("cpu", "v1beta1", 'the ResourceName "cpu" is invalid'),
    ],
)
async def test_registrations_that_are_refused(node: TestNode, resource: str, version: str, said: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=said):
        await register(directory(node), resource, "x.sock", plugin.DevicePluginOptions(), version)
