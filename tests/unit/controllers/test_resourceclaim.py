"""ResourceClaims: made from templates, reserved, released with the last user."""

from __future__ import annotations

from typing import Any

from tests.unit.controllers.harness import Json, World, pod
from tiphys.controllers.resourceclaim import ResourceClaimController

PODS = "/api/v1/pods"
CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
TEMPLATES = "/apis/resource.k8s.io/v1/resourceclaimtemplates"
FINALIZER = "resource.kubernetes.io/delete-protection"


def user(name: str, node: str = "", **wish: str) -> Json:
    made = pod(name, node=node, phase="Pending")
    made["spec"]["resourceClaims"] = [{"name": "gpu", **wish}]
    return made


def allocated(name: str, *users: Json, **metadata: Any) -> Json:
    reserved = [{"resource": "pods", "name": one["metadata"]["name"], "uid": one["metadata"]["uid"]} for one in users]
    return {
        "metadata": {"name": name, "namespace": "default", "finalizers": [FINALIZER], **metadata},
        "spec": {},
        "status": {"allocation": {"devices": {}}, "reservedFor": reserved},
    }


async def test_a_template_becomes_one_claim_named_in_the_pods_status() -> None:
    world = World()
    template = {"metadata": {"labels": {"x": "y"}}, "spec": {"devices": {"requests": [{"name": "r"}]}}}
    made = world.api.put(PODS, user("p", resourceClaimTemplateName="t"))
    async with world.running(ResourceClaimController, kubelet=False):
        await world.pass_time(3)
        assert world.api.list(CLAIMS) == []
        assert world.events()[0][0] == "FailedResourceClaimCreation"
        world.api.put(TEMPLATES, {"metadata": {"name": "t", "namespace": "default"}, "spec": template})
        await world.pass_time(5)
        (claim,) = world.api.list(CLAIMS)
        assert claim["metadata"]["name"].startswith("p-gpu-")
        assert claim["metadata"]["labels"] == {"x": "y"}
        assert claim["metadata"]["annotations"] == {"resource.kubernetes.io/pod-claim-name": "gpu"}
        assert claim["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
        assert claim["spec"] == template["spec"]
        status = world.api.list(PODS)[0]["status"]
        assert status["resourceClaimStatuses"] == [{"name": "gpu", "resourceClaimName": claim["metadata"]["name"]}]
        world.api.change(PODS, "default", "p", {"status": {"phase": "Succeeded"}})
        await world.pass_time(5)
    assert world.api.list(CLAIMS) == []


async def test_the_last_user_gives_the_devices_back() -> None:
    world = World()
    one, two = (world.api.put(PODS, user(name, "n1", resourceClaimName="c")) for name in ("one", "two"))
    world.api.put(CLAIMS, allocated("c", one, two))
    async with world.running(ResourceClaimController, kubelet=False):
        await world.pass_time(3)
        world.api.remove(PODS, "default", "one")
        await world.pass_time(3)
        (claim,) = world.api.list(CLAIMS)
        assert [found["name"] for found in claim["status"]["reservedFor"]] == ["two"]
        world.api.change(PODS, "default", "two", {"status": {"phase": "Succeeded"}})
        await world.pass_time(3)
    (claim,) = world.api.list(CLAIMS)
    assert "allocation" not in claim["status"]
    assert claim["metadata"].get("finalizers", []) == []


async def test_a_pod_put_on_a_node_by_hand_is_reserved_for() -> None:
    world = World()
    made = world.api.put(PODS, user("p", "n1", resourceClaimName="c"))
    world.api.put(CLAIMS, allocated("c"))
    async with world.running(ResourceClaimController, kubelet=False):
        await world.pass_time(3)
    (claim,) = world.api.list(CLAIMS)
    assert claim["status"]["reservedFor"] == [{"resource": "pods", "name": "p", "uid": made["metadata"]["uid"]}]
