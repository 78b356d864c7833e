"""Discovery and OpenAPI as clients read them."""

from __future__ import annotations

import pytest

from tests.integration.apiserver.server import Api

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


async def test_the_old_documents_and_the_aggregated_one_say_the_same(api: Api) -> None:
    groups = await api.get("/apis")
    aggregated = await api.get("/apis", Accept=AGGREGATED)
    assert [one["name"] for one in groups["groups"]] == [one["metadata"]["name"] for one in aggregated["items"]]
    for group in aggregated["items"]:
        for version in group["versions"]:
            listed = await api.get(f"/apis/{group['metadata']['name']}/{version['version']}")
            plain = [one["name"] for one in listed["resources"] if "/" not in one["name"]]
            assert plain == [one["resource"] for one in version["resources"]]


async def test_aggregated_discovery_has_an_etag(api: Api) -> None:
    await api.get("/api", Accept=AGGREGATED)
    etag = api.headers["Etag"]
    assert await api.raw("GET", "/api", Accept=AGGREGATED, If_None_Match=etag) == b""
    assert api.status == 304


async def test_openapi_v3_has_a_document_for_every_group_and_version(api: Api) -> None:
    index = await api.get("/openapi/v3")
    for path in ("api/v1", "apis/apps/v1", "apis/autoscaling/v2"):
        document = await api.get(index["paths"][path]["serverRelativeURL"])
        schemas = document["components"]["schemas"]
        assert any(
            operation.get("x-kubernetes-action") == "patch"
            and any(one["name"] == "fieldValidation" for one in operation["parameters"])
            for item in document["paths"].values()
            for operation in item.values()
            if isinstance(operation, dict)
        )
        missing = {name for name in _references(document) if name not in schemas}
        assert not missing


async def test_openapi_v2_in_protobuf_is_what_kubectl_asks_for(api: Api) -> None:
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    data = await api.raw("GET", "/openapi/v2", Accept=accept)
    assert data.startswith(b"\x0a\x032.0\x12")
    assert api.headers["Content-Type"] == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    document = await api.get("/openapi/v2")
    assert (
        document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"]["operationId"] == "createCoreV1NamespacedPod"
    )


def _references(value: object) -> set[str]:
    if isinstance(value, dict):
        found = {value["$ref"].rpartition("/")[2]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*(_references(one) for key, one in value.items() if key != "$ref"))
    if isinstance(value, list):
        return set().union(*(_references(one) for one in value)) if value else set()
    return set()


METHODS = {
    "no method of a resource": ("HEAD", "/api/v1/namespaces/default", 405),
    "no method of a version": ("HEAD", "/api/v1", 405),
    "no method of a collection of all namespaces": ("PATCH", "/apis/apps/v1/deployments", 405),
    "no object without its namespace": ("PATCH", "/apis/apps/v1/deployments/x", 404),
    "reviews have no names": ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews/x", 404),
    "reviews are only made": ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405),
    "reviews of all namespaces have none": (
        "POST",
        "/apis/authorization.k8s.io/v1/namespaces/x/selfsubjectaccessreviews",
        404,
    ),
    "an empty segment": ("GET", "/api/v1//namespaces", 404),
    "the old proxy": ("GET", "/api/v1/proxy/namespaces/default/pods/x", 404),
    "groups do not ask for the method": ("POST", "/apis", 200),
    "a path that ends early": ("GET", "/openapi/v2/", 404),
    "no check": ("GET", "/livez/", 404),
}


@pytest.mark.parametrize("case", METHODS.values(), ids=METHODS.keys())
async def test_paths_and_methods(api: Api, case: tuple[str, str, int]) -> None:
    method, path, status = case
    await api.raw(method, path, {} if method in ("POST", "PATCH") else None)
    assert api.status == status


async def test_aggregated_discovery_has_the_encodings_of_everything_else(api: Api) -> None:
    for media in ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf"):
        await api.raw("GET", "/apis", Accept=f"{media};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
        assert api.headers["Content-Type"].startswith(f"{media};g=apidiscovery.k8s.io")
        assert api.headers["Cache-Control"] == "public"
