from __future__ import annotations

import pytest

from tiphys.apiserver.endpoints.request_info import parse_request_info

# method, path, query → verb, group, version, namespace, resource, subresource, name
RESOURCES = {
    "list": ("GET", "/api/v1/pods", {}, "list", "", "v1", "", "pods", "", ""),
    "list of a namespace": ("GET", "/api/v1/namespaces/d/pods", {}, "list", "", "v1", "d", "pods", "", ""),
    "get": ("GET", "/api/v1/namespaces/d/pods/p", {}, "get", "", "v1", "d", "pods", "", "p"),
    "head": ("HEAD", "/api/v1/namespaces/d/pods/p", {}, "get", "", "v1", "d", "pods", "", "p"),
    "watch": ("GET", "/apis/apps/v1/deployments", {"watch": ["1"]}, "watch", "apps", "v1", "", "deployments", "", ""),
    "not a watch": (
        "GET",
        "/apis/apps/v1/deployments",
        {"watch": ["0"]},
        "list",
        "apps",
        "v1",
        "",
        "deployments",
        "",
        "",
    ),
    "old watch path": ("GET", "/api/v1/watch/namespaces/d/pods", {}, "watch", "", "v1", "d", "pods", "", ""),
    "create": ("POST", "/api/v1/namespaces/d/pods", {}, "create", "", "v1", "d", "pods", "", ""),
    "update": ("PUT", "/api/v1/namespaces/d/pods/p", {}, "update", "", "v1", "d", "pods", "", "p"),
    "patch": ("PATCH", "/api/v1/nodes/n", {}, "patch", "", "v1", "", "nodes", "", "n"),
    "delete": ("DELETE", "/api/v1/nodes/n", {}, "delete", "", "v1", "", "nodes", "", "n"),
    "delete a collection": ("DELETE", "/api/v1/nodes", {}, "deletecollection", "", "v1", "", "nodes", "", ""),
    "a namespace": ("GET", "/api/v1/namespaces/d", {}, "get", "", "v1", "d", "namespaces", "", "d"),
    "finalize": ("PUT", "/api/v1/namespaces/d/finalize", {}, "update", "", "v1", "d", "namespaces", "finalize", "d"),
    "log": ("GET", "/api/v1/namespaces/d/pods/p/log", {}, "get", "", "v1", "d", "pods", "log", "p"),
    "proxy": (
        "GET",
        "/api/v1/namespaces/d/services/s:80/proxy/x/y",
        {},
        "get",
        "",
        "v1",
        "d",
        "services",
        "proxy",
        "s:80",
    ),
    "a name by selector": (
        "GET",
        "/api/v1/namespaces/d/secrets",
        {"fieldSelector": ["metadata.name=s"]},
        "list",
        "",
        "v1",
        "d",
        "secrets",
        "",
        "s",
    ),
}


@pytest.mark.parametrize("case", RESOURCES.values(), ids=RESOURCES.keys())
def test_resource_requests(case: tuple[str, str, dict[str, list[str]], str, str, str, str, str, str, str]) -> None:
    method, path, query, *wanted = case
    info = parse_request_info(method, path, query)
    assert info.is_resource
    found = [info.verb, info.api_group, info.api_version, info.namespace, info.resource, info.subresource, info.name]
    assert found == wanted


@pytest.mark.parametrize(
    "path", ["/", "/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v2"]
)
def test_other_paths_are_no_resources(path: str) -> None:
    info = parse_request_info("GET", path, {})
    assert not info.is_resource
    assert info.verb == "get"
    assert info.path == path
