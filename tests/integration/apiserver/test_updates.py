"""What an update may change, and how a bad one is answered."""

from __future__ import annotations

from typing import Any

import pytest

from .server import Api, api_server, config_map

CLAIMS = "/api/v1/namespaces/d/persistentvolumeclaims"
SETS = "/apis/apps/v1/namespaces/d/statefulsets"


def claim(size: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeName": "v"}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": spec}


async def resize(api: Api, size: str) -> int:
    await api.merge(f"{CLAIMS}/c", {"spec": {"resources": {"requests": {"storage": size}}}})
    return api.status


async def test_a_claim_shrinks_down_to_what_it_has() -> None:
    async with api_server() as api:
        await api.post(CLAIMS, claim("4Gi"))
        await api.merge(f"{CLAIMS}/c/status", {"status": {"phase": "Bound"}})
        assert await resize(api, "3Gi") == 200  # nothing is provisioned yet
        await api.merge(f"{CLAIMS}/c/status", {"status": {"capacity": {"storage": "2Gi"}}})
        assert await resize(api, "2500Mi") == 200
        assert await resize(api, "2Gi") == 422


async def test_a_stateful_set_is_told_only_that_the_field_may_not_change() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    async with api_server() as api:
        await api.post(SETS, {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"}, "spec": spec})
        for change in ({"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}, {"serviceName": "no_name"}):
            status = await api.merge(f"{SETS}/s", {"spec": change})
            assert [cause["field"] for cause in status["details"]["causes"]] == ["spec"]


@pytest.mark.parametrize("element", ["", "f", "k:", "k:{", "v:[", "i:x", "a", "fx", "z:1"])
async def test_ownership_that_makes_no_sense_is_not_kept(element: str) -> None:
    async with api_server() as api:
        path = "/api/v1/namespaces/d/configmaps"
        await api.post(f"{path}?fieldManager=m", config_map("c", {"a": "b"}))
        entries = [{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsV1": {element: {}}}]
        found = await api.merge(f"{path}/c?fieldManager=m", {"metadata": {"managedFields": entries}})
        assert (api.status, [one["manager"] for one in found["metadata"]["managedFields"]]) == (200, ["m"])


async def test_applied_numbers_keep_the_bits_that_fit() -> None:
    async with api_server() as api:
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        spec = {"template": template, "selector": {"matchLabels": {"a": "b"}}, "replicas": 2**40 + 3}
        applied = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
        found = await api.apply("/apis/apps/v1/namespaces/d/deployments/d", applied, "m")
        assert (api.status, found["spec"]["replicas"]) == (201, 3)


async def test_an_applied_container_without_a_name_is_invalid() -> None:
    async with api_server() as api:
        applied = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{}]}}
        status = await api.apply("/api/v1/namespaces/d/pods/p", applied, "m")
        assert api.status == 422
        assert "spec.containers[0].name" in [cause["field"] for cause in status["details"]["causes"]]


@pytest.mark.parametrize(
    ("metadata", "code", "message"),
    [
        ({"resourceVersion": "1"}, 201, ""),
        ({"resourceVersion": "x"}, 500, 'strconv.ParseUint: parsing "x": invalid syntax'),
        ({"uid": "u"}, 409, "uid mismatch: the provided object specified uid u, and no existing object was found"),
    ],
)
async def test_applying_what_is_not_there(metadata: dict[str, str], code: int, message: str) -> None:
    async with api_server() as api:
        applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **metadata}}
        found = await api.apply("/api/v1/namespaces/d/configmaps/c", applied, "m")
        assert (api.status, found.get("message", "").endswith(message)) == (code, True)


async def test_the_scale_of_nothing_is_not_found_whatever_is_applied() -> None:
    async with api_server() as api:
        applied = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "other"}, "spec": {}}
        await api.apply("/apis/apps/v1/namespaces/d/deployments/none/scale", applied, "m")
        assert api.status == 404
