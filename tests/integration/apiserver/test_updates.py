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


async def test_numbers_that_do_not_fit_are_the_applier_s_fault() -> None:
    async with api_server() as api:
        spec = {"template": {}, "selector": {}, "replicas": 2**40}
        applied = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
        status = await api.apply("/apis/apps/v1/namespaces/d/deployments/d", applied, "m")
        assert (api.status, status["reason"]) == (400, "BadRequest")
        spec["replicas"] = 1.5
        status = await api.apply("/apis/apps/v1/namespaces/d/deployments/d", applied, "m")
        assert (api.status, status["message"]) == (
            500,
            (
                "failed to convert new object (/d; apps/v1, Kind=Deployment) to proper version: unable to convert "
                "unstructured object to apps/v1, Kind=Deployment: cannot convert float64 to int32"
            ),
        )
