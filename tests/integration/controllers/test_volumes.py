"""Volumes, claims of devices and autoscaling against the real API server, with its validation and defaults."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tests.integration.controllers.test_manager import deployment, eventually, managed
from tiphys.api.apps.v1 import Deployment
from tiphys.api.autoscaling.v2 import HorizontalPodAutoscaler
from tiphys.api.core.v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.networking.v1 import ServiceCIDR
from tiphys.api.resource.v1 import ResourceClaim
from tiphys.client import Client, PatchType, key_of
from tiphys.controllers.localpath.manifests import storage_class
from tiphys.controllers.persistentvolume.claims import SELECTED_NODE
from tiphys.machinery.meta import ObjectName

CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
VOLUMES = "/api/v1/persistentvolumes"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"


def claim(storage_class_: str) -> dict[str, Any]:
    resources = {"requests": {"storage": "1Gi"}}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": resources, "storageClassName": storage_class_}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": spec}


async def volumes(client: Client) -> list[str]:
    return [found.status.phase for found in (await client.list(PersistentVolume)).items]


async def claims(client: Client) -> list[str]:
    return [found.status.phase for found in (await client.list(PersistentVolumeClaim)).items]


async def finish_helpers(client: Client) -> None:
    """What a kubelet would do."""
    for pod in (await client.list(Pod, namespace="kube-system")).items:
        if pod.status.phase != "Succeeded":
            await client.update_status(replace(pod, status=replace(pod.status, phase="Succeeded")))


async def test_a_claim_is_bound_and_its_volume_released() -> None:
    async with managed() as client:
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual"}
        volume = {"metadata": {"name": "v"}, "spec": {**spec, "hostPath": {"path": "/tmp/x"}}}
        await client.request_json("POST", VOLUMES, {"apiVersion": "v1", "kind": "PersistentVolume", **volume})
        await client.request_json("POST", CLAIMS, claim("manual"))

        async def bound() -> bool:
            both = [*await volumes(client), *await claims(client)]
            return both == ["Bound", "Bound"]

        await eventually(bound)
        await client.delete(PersistentVolumeClaim, ObjectName("default", "c"))

        async def released() -> bool:
            return await volumes(client) == ["Released"]

        await eventually(released)


async def test_a_directory_is_made_and_removed_by_pods_of_the_node() -> None:
    async with managed() as client:
        await client.create(Node(metadata=ObjectMeta(name="n1", labels={"kubernetes.io/hostname": "n1"})))
        await client.request_json("POST", CLASSES, storage_class())
        await client.request_json("POST", CLAIMS, claim("local-path"))
        chosen = {"metadata": {"annotations": {SELECTED_NODE: "n1"}}}
        await client.patch(PersistentVolumeClaim, ObjectName("default", "c"), chosen)

        async def bound() -> bool:
            await finish_helpers(client)
            return await claims(client) == ["Bound"]

        await eventually(bound)
        await client.delete(PersistentVolumeClaim, ObjectName("default", "c"))

        async def gone() -> bool:
            await finish_helpers(client)
            return not await volumes(client)

        await eventually(gone)

        async def tidied() -> bool:
            # Those that ended have no kubelet here that would confirm it.
            pods = (await client.list(Pod, namespace="kube-system")).items
            for pod in pods:
                if pod.metadata.deletion_timestamp is not None:
                    await client.delete(Pod, key_of(pod), grace_period_seconds=0)
            return not pods

        await eventually(tidied)


async def test_a_scale_is_brought_between_its_bounds() -> None:
    async with managed() as client:
        await client.create(deployment(5))
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
        body = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"},
            "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3},
        }
        path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
        await client.request_json("POST", path, body)

        async def scaled() -> bool:
            found = await client.get(Deployment, ObjectName("default", "d"))
            autoscaler = await client.get(HorizontalPodAutoscaler, ObjectName("default", "h"))
            reasons = [condition.reason for condition in autoscaler.status.conditions]
            return found.spec.replicas == 3 and "SucceededRescale" in reasons

        await eventually(scaled)


async def test_a_pods_claim_for_devices_comes_from_its_template() -> None:
    async with managed() as client:
        requests = [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]
        template = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": "t"},
            "spec": {"spec": {"devices": {"requests": requests}}},
        }
        path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates"
        await client.request_json("POST", path, template)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p"},
            "spec": {
                "containers": [{"name": "c", "image": "img"}],
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}],
            },
        }
        await client.request_json("POST", "/api/v1/namespaces/default/pods", pod)

        async def named() -> bool:
            found = await client.get(Pod, ObjectName("default", "p"))
            made = (await client.list(ResourceClaim)).items
            names = [one.resource_claim_name for one in found.status.resource_claim_statuses]
            return bool(names) and names == [one.metadata.name for one in made]

        await eventually(named)


async def test_a_range_of_services_becomes_ready() -> None:
    async with managed() as client:
        body = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "r"},
            "spec": {"cidrs": ["10.150.0.0/24"]},
        }
        applied = "/apis/networking.k8s.io/v1/servicecidrs/r"
        query = {"fieldManager": "test"}
        await client.request_json("PATCH", applied, body, query=query, content_type=PatchType.APPLY)

        async def ready() -> bool:
            found = await client.get(ServiceCIDR, ObjectName("", "r"))
            return [one.status for one in found.status.conditions] == ["True"] and bool(found.metadata.finalizers)

        await eventually(ready)
