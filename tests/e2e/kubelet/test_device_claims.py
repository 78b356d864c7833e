"""Pods with device claims on a node whose driver is a toy; the scheduler's part is played here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import msgspec
import pytest
from msgspec.structs import replace

from tests.e2e.kubelet.dra_driver import KIND, ToyDriver, serving
from tests.e2e.kubelet.node import TestNode, eventually
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import Binding, ObjectReference, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.podresources import api_pb2 as podresources
from tiphys.api.podresources import api_pb2_grpc
from tiphys.api.resource.v1 import ResourceClaim, ResourceSlice
from tiphys.kubelet.dra.prepared import NAME, load
from tiphys.machinery.meta import ObjectName

pytestmark = pytest.mark.root

DRIVER = "toy.example.test"


@pytest.fixture
async def driver(node: TestNode) -> AsyncIterator[ToyDriver]:
    made = ToyDriver(DRIVER, node.runtime_options.cdi_directories[0])
    made.cdi.mkdir(parents=True, exist_ok=True)
    async with serving(made, node.flags.root_dir / "plugins_registry" / "toy.sock"):
        await eventually(told(made, 1), "the registration")
        assert made.statuses[0].plugin_registered
        yield made


def told(driver: ToyDriver, times: int) -> Callable[[], Awaitable[bool]]:
    """Whether the kubelet has told the driver so often how its registration went."""

    async def enough() -> bool:
        return len(driver.statuses) >= times

    return enough


async def allocated(node: TestNode, namespace: str, name: str) -> ResourceClaim:
    """A claim with a toy."""
    request = {"name": "req", "exactly": {"deviceClassName": "toys", "allocationMode": "ExactCount", "count": 1}}
    raw = {"metadata": {"name": name, "namespace": namespace}, "spec": {"devices": {"requests": [request]}}}
    claim = await node.client.create(msgspec.convert(raw, ResourceClaim))
    result = {"request": "req", "driver": DRIVER, "pool": "pool", "device": "toy"}
    status = {"allocation": {"devices": {"results": [result]}}}
    return await node.client.update_status(replace(claim, status=msgspec.convert(status, type(claim.status))))


async def reserve(node: TestNode, claim: ResourceClaim, pod: str) -> None:
    """Make the pod a user of the claim, as the scheduler does."""
    key = ObjectName(claim.metadata.namespace, claim.metadata.name)
    uid = (await node.client.get(Pod, ObjectName(claim.metadata.namespace, pod))).metadata.uid
    current = await node.client.get(ResourceClaim, key)
    user = {"resource": "pods", "name": pod, "uid": uid}
    users = [*msgspec.to_builtins(current.status.reserved_for), user]
    await node.client.patch(ResourceClaim, key, {"status": {"reservedFor": users}}, subresource="status")


def wanting(claim: str, code: str = "echo $TOY; sleep 1000") -> dict[str, Any]:
    container = {**busybox(), "command": ["sh", "-c", code], "resources": {"claims": [{"name": "toy"}]}}
    return {"containers": [container], "resourceClaims": [{"name": "toy", "resourceClaimName": claim}]}


async def shown_claims(node: TestNode) -> list[podresources.DynamicResource]:
    """What monitoring agents are told of the pods' device claims."""
    socket = node.root / "kubelet" / "pod-resources" / "kubelet.sock"
    async with grpc.aio.insecure_channel(f"unix://{socket}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        listed = await api_pb2_grpc.PodResourcesListerStub(channel).List(podresources.ListPodResourcesRequest())
    return [claim for pod in listed.pod_resources for item in pod.containers for claim in item.dynamic_resources]


async def test_devices_are_made_ready_for_pods_and_given_back(node: TestNode, driver: ToyDriver) -> None:
    claim = await allocated(node, "default", "shared")
    driver.refuse.append("toy is broken")
    for name in ("first", "second"):
        await node.create(name, wanting("shared"))
    said = await node.event("first", "FailedPrepareDynamicResources")
    assert "ResourceClaim" in said
    for name in ("first", "second"):
        await reserve(node, claim, name)
    for name in ("first", "second"):
        await node.running(name)
        assert await node.exec(name, "sh", "-c", "echo $TOY") == "shared\n"
    assert set(driver.prepared) == {"shared"}
    assert len(load(node.flags.root_dir / NAME)[claim.metadata.uid].pods) == 2
    (shown, _) = await shown_claims(node)
    assert (shown.claim_name, shown.claim_namespace) == ("shared", "default")
    (device,) = shown.claim_resources
    assert (device.driver_name, device.pool_name, device.device_name) == (DRIVER, "pool", "toy")
    assert [given.name for given in device.cdi_devices] == [f"{KIND}={claim.metadata.uid}"]
    await node.delete("first")
    await node.gone("first")
    assert driver.unprepared == []
    await node.delete("second")
    await node.gone("second")
    assert driver.unprepared == ["shared"]
    assert load(node.flags.root_dir / NAME) == {}


async def test_a_kubelet_that_begins_anew_knows_what_is_prepared(node: TestNode, driver: ToyDriver) -> None:
    claim = await allocated(node, "default", "kept")
    await node.create("p", wanting("kept"))
    await reserve(node, claim, "p")
    await node.running("p")
    await node.stop_kubelet()
    await node.start_kubelet()
    await eventually(told(driver, 2), "the driver to be found again")
    assert driver.prepared == ["kept"]
    await node.delete("p")
    await node.gone("p")
    assert driver.unprepared == ["kept"]


async def test_devices_serve_extended_resources(node: TestNode, driver: ToyDriver) -> None:
    """The scheduler has made a claim for the pod, and its status says which container has what of it."""
    claim = await allocated(node, "default", "made")
    other = {**busybox(), "name": "other", "command": ["sleep", "1000"]}
    toy = {**busybox(), "command": ["sleep", "1000"], "resources": {"limits": {"example.test/toy": "1"}}}
    spec = {"containers": [toy, other], "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
    raw = {"metadata": {"name": "p", "namespace": "default"}, "spec": spec}
    await node.client.create(msgspec.convert(raw, Pod))
    key = ObjectName("default", "p")
    await reserve(node, claim, "p")
    mapping = {"containerName": toy["name"], "resourceName": "example.test/toy", "requestName": "req"}
    told = {"extendedResourceClaimStatus": {"resourceClaimName": "made", "requestMappings": [mapping]}}
    await node.client.patch(Pod, key, {"status": told}, subresource="status")
    named, target = ObjectMeta(name="p", namespace="default"), ObjectReference(kind="Node", name=node.name)
    await node.client.create_subresource(Pod, key, "binding", Binding(metadata=named, target=target))
    await node.running("p")
    assert await node.exec("p", "sh", "-c", "echo $TOY") == "made\n"
    assert await node.exec("p", "sh", "-c", "echo $TOY", container="other") == "\n"
    assert (await node.client.get(Pod, key)).status.extended_resource_claim_status is not None
    await node.delete("p")
    await node.gone("p")
    assert driver.unprepared == ["made"]


async def test_slices_of_a_driver_that_stays_away_go(node: TestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiphys.kubelet.dra.drivers.WIPING_DELAY", 0.2)
    driver = ToyDriver(DRIVER, node.root)
    async with serving(driver, node.flags.root_dir / "plugins_registry" / "toy.sock"):
        await eventually(told(driver, 1), "the registration")
        pool = {"name": "pool", "generation": 1, "resourceSliceCount": 1}
        for name, owner in (("own", DRIVER), ("other", "other.example.test")):
            spec = {"driver": owner, "nodeName": node.name, "pool": pool, "devices": [{"name": "toy"}]}
            await node.client.create(msgspec.convert({"metadata": {"name": name}, "spec": spec}, ResourceSlice))

    async def left() -> bool:
        return [each.metadata.name for each in (await node.client.list(ResourceSlice)).items] == ["other"]

    await eventually(left, "the slices to go")
