"""Custom resources over HTTP: served at once, validated, defaulted, applied, watched, deleted with their definition.

Policies too: they are CEL in the cluster.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.integration.apiserver.server import Api, config_map
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.security import secured_server

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BOATS = "/apis/example.com/v1/namespaces/d/boats"
OLD_BOATS = "/apis/example.com/v1beta1/namespaces/d/boats"
POLICIES = "/apis/admissionregistration.k8s.io/v1"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["length"],
            "x-kubernetes-validations": [{"rule": "self.crew.all(c, c.size() > 1)", "message": "crew needs names"}],
            "properties": {
                "length": {"type": "integer", "minimum": 1},
                "sail": {"type": "boolean", "default": True},
                "crew": {
                    "type": "array",
                    "default": [],
                    "items": {"type": "string"},
                    "x-kubernetes-list-type": "set",
                    "maxItems": 9,
                },
            },
        },
        "status": {"type": "object", "properties": {"knots": {"type": "integer"}}},
    },
}
DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "boats.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "boats", "kind": "Boat", "shortNames": ["bo"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": SCHEMA},
                "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.length"}],
            },
            {
                "name": "v1beta1",
                "served": True,
                "storage": False,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            },
        ],
    },
}


def boat(name: str, version: str = "v1", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": f"example.com/{version}", "kind": "Boat", "metadata": {"name": name}, "spec": spec}


async def until(api: Api, path: str, status: int) -> Any:
    """Ask until the answer has a status; a path that is not served yet is answered in plain text."""
    async with asyncio.timeout(5):
        while True:
            found = await api.raw("GET", path)
            if api.status == status:
                return json.loads(found)
            await asyncio.sleep(0)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    server = secured_server(ServerOptions(port=0, store="memory", authorization_modes=("AlwaysAllow",)))
    ((host, port),) = await server.start()
    try:
        url = f"http://{host}:{port}"
        async with aiohttp.ClientSession(url) as session:
            api = Api(server, session, url)
            await api.post("/api/v1/namespaces", {"metadata": {"name": "d"}})
            yield api
    finally:
        await server.stop()


@pytest.fixture
async def boats(api: Api) -> Api:
    await api.post(CRDS, DEFINITION)
    assert api.status == 201
    await until(api, BOATS, 200)
    return api


async def test_served_in_discovery_and_openapi(boats: Api) -> None:
    listed = await boats.get("/apis/example.com/v1")
    assert [one["name"] for one in listed["resources"]] == ["boats", "boats/status"]
    document = await boats.get("/openapi/v3/apis/example.com/v1")
    schema = document["components"]["schemas"]["com.example.v1.Boat"]
    assert schema["properties"]["spec"]["properties"]["length"]["type"] == "integer"
    item = document["paths"]["/apis/example.com/v1/namespaces/{namespace}/boats/{name}"]
    assert "application/strategic-merge-patch+json" not in item["patch"]["requestBody"]["content"]
    whole = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    document = await boats.get("/openapi/v3/apis/example.com/v1beta1")
    assert whole.items() <= document["components"]["schemas"]["com.example.v1beta1.Boat"].items()
    document = await boats.get("/openapi/v2")
    assert set(document["definitions"]["com.example.v1beta1.Boat"]) == {"type", "x-kubernetes-group-version-kind"}


async def test_defaults_pruning_and_validation(boats: Api) -> None:
    made = await boats.post(BOATS, {**boat("a", length=3, engine=1), "extra": 1})
    assert made["spec"] == {"length": 3, "sail": True, "crew": []}
    assert set(boats.headers.getall("Warning")) == {
        '299 - "unknown field \\"extra\\""',
        '299 - "unknown field \\"spec.engine\\""',
    }
    refused = await boats.post(BOATS, boat("b", length=0, crew=["x"]))
    assert boats.status == 422
    assert [cause["field"] for cause in refused["details"]["causes"]] == ["spec.length", "spec"]


async def test_versions_are_the_same_objects(boats: Api) -> None:
    await boats.post(OLD_BOATS, boat("a", "v1beta1", length=3, more="kept"))
    found = await boats.get(f"{BOATS}/a")
    assert found["apiVersion"] == "example.com/v1"
    assert found["spec"] == {"length": 3, "sail": True, "crew": []}
    old = await boats.get(f"{OLD_BOATS}/a")
    assert (old["apiVersion"], old["spec"]["more"]) == ("example.com/v1beta1", "kept")


async def test_apply_merges_by_list_type(boats: Api) -> None:
    await boats.apply(f"{BOATS}/a", boat("a", length=3, crew=["ann"]), "one")
    found = await boats.apply(f"{BOATS}/a", boat("a", length=3, crew=["bob"]), "two")
    assert found["spec"]["crew"] == ["ann", "bob"]
    refused = await boats.apply(f"{BOATS}/a", boat("a", length=4), "three")
    assert boats.status == 409
    assert [cause["field"] for cause in refused["details"]["causes"]] == [".spec.length", ".spec.length"]


async def test_an_applied_null_is_refused_where_null_may_not_be(boats: Api) -> None:
    refused = await boats.apply(f"{BOATS}/a", boat("a") | {"spec": None}, "one")
    assert boats.status == 422
    assert refused["details"]["causes"][0]["message"].endswith('spec in body must be of type object: "null"')
    found = await boats.apply(f"{BOATS}/a", boat("a", length=3, sail=None), "one")  # but where there is a default
    assert (boats.status, found["spec"]["sail"]) == (201, True)


async def test_status_is_apart(boats: Api) -> None:
    await boats.post(BOATS, {**boat("a", length=3), "status": {"knots": 9}})
    assert "status" not in await boats.get(f"{BOATS}/a")
    body = {"spec": {"length": 7}, "status": {"knots": 5}, "metadata": {"labels": {"a": "b"}}}
    found = await boats.merge(f"{BOATS}/a/status", body)
    assert (found["spec"]["length"], found["status"], found["metadata"]["generation"]) == (3, {"knots": 5}, 1)
    assert "labels" not in found["metadata"]


async def test_selected_and_watched(boats: Api) -> None:
    for name, length in (("a", 1), ("b", 2)):
        await boats.post(BOATS, boat(name, length=length))
    found = await boats.get(f"{BOATS}?fieldSelector=spec.length%3D2")
    assert [one["metadata"]["name"] for one in found["items"]] == ["b"]
    assert found["items"][0]["kind"] == "Boat"
    events = await boats.events(f"{BOATS}?watch=true&fieldSelector=spec.length%3D1", 1)
    assert [(one["type"], one["object"]["metadata"]["name"]) for one in events] == [("ADDED", "a")]


async def test_deleted_with_the_definition(boats: Api) -> None:
    await boats.post(BOATS, boat("a", length=1))
    gone = await boats.delete(f"{CRDS}/boats.example.com")
    assert gone["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
    await until(boats, f"{CRDS}/boats.example.com", 404)
    async with asyncio.timeout(5):  # discovery follows the definitions, it is not one with them
        while await boats.raw("GET", "/apis/example.com/v1") != b"404 page not found\n":
            pass
    assert boats.status == 404
    await boats.post(CRDS, DEFINITION)
    found = await until(boats, BOATS, 200)
    assert found["items"] == []


async def test_names_that_are_taken(boats: Api) -> None:
    spec = {**DEFINITION["spec"], "names": {"plural": "ships", "kind": "Boat"}}
    await boats.post(CRDS, {**DEFINITION, "metadata": {"name": "ships.example.com"}, "spec": spec})
    async with asyncio.timeout(5):
        while True:
            found = await boats.get(f"{CRDS}/ships.example.com")
            if found["status"]["conditions"]:
                break
            await asyncio.sleep(0)
    conditions = {one["type"]: (one["status"], one["reason"]) for one in found["status"]["conditions"]}
    assert conditions == {"NamesAccepted": ("False", "ListKindConflict"), "Established": ("False", "NotAccepted")}


async def test_policies(api: Api) -> None:
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}]
    judge = {
        "matchConstraints": {"resourceRules": rules},
        "validations": [
            {"expression": "object.data.size() < 2", "messageExpression": "object.metadata.name + ': full'"}
        ],
    }
    change = {
        "matchConstraints": {"resourceRules": rules},
        "reinvocationPolicy": "Never",
        "mutations": [
            {
                "patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'by': 'policy'}}}"},
            }
        ],
    }
    for plural, spec, binding in (
        ("validatingadmissionpolicies", judge, {"policyName": "p", "validationActions": ["Deny"]}),
        ("mutatingadmissionpolicies", change, {"policyName": "p"}),
    ):
        await api.post(f"{POLICIES}/{plural}", {"metadata": {"name": "p"}, "spec": spec})
        assert api.status == 201
        bindings = plural.removesuffix("ies") + "ybindings"
        await api.post(f"{POLICIES}/{bindings}", {"metadata": {"name": "b"}, "spec": binding})
        assert api.status == 201
    refused = await api.post("/api/v1/namespaces/d/configmaps", config_map("c", {"a": "1", "b": "2"}))
    assert (api.status, refused["message"]) == (
        422,
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: c: full",
    )
    made = await api.post("/api/v1/namespaces/d/configmaps", config_map("c", {"a": "1"}))
    assert made["metadata"]["labels"] == {"by": "policy"}


async def test_keys_applied_twice(boats: Api) -> None:
    body = "{apiVersion: example.com/v1, kind: Boat, metadata: {name: a},\nspec: {length: 1, length: 2}}"
    path = f"{BOATS}/a?fieldManager=m&fieldValidation="
    answer = await boats.call("PATCH", f"{path}Strict", body, Content_Type="application/apply-patch+yaml")
    assert boats.status == 400
    assert answer["message"] == (
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n"
        '  line 2: key "length" already set in map'
    )
    await boats.call("PATCH", f"{path}Warn", body, Content_Type="application/apply-patch+yaml")
    assert boats.status == 201
    assert boats.headers.getall("Warning") == ['299 - "line 2: key \\"length\\" already set in map"']
    await boats.call("PATCH", f"{path}Ignore", body, Content_Type="application/apply-patch+yaml")
    assert boats.status == 200
    assert "Warning" not in boats.headers


async def test_a_review_is_no_table(api: Api) -> None:
    review = {"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = await api.post(path, review, Accept=table)
    assert (api.status, answer["reason"]) == (406, "NotAcceptable")
    await api.post(path, review, Accept=f"{table}, application/json")
    assert api.status == 201


async def test_policies_see_what_a_connection_is_asked_for_with(api: Api) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"], "resources": ["nodes/proxy"]}
    policy = {
        "metadata": {"name": "logs"},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "!object.path.startsWith('/logs')", "message": "no logs"}],
        },
    }
    await api.post(f"{POLICIES}/validatingadmissionpolicies", policy)
    binding = {"metadata": {"name": "logs"}, "spec": {"policyName": "logs", "validationActions": ["Deny"]}}
    await api.post(f"{POLICIES}/validatingadmissionpolicybindings", binding)
    refused = await api.get("/api/v1/nodes/n/proxy/logs/x")
    assert (api.status, refused["message"].rpartition(": ")[2]) == (422, "no logs")
    await api.get("/api/v1/nodes/n/proxy/stats")
    assert api.status == 404  # there is no such node


async def test_versions_on_their_way_out_say_so(api: Api) -> None:
    definition = copy.deepcopy(DEFINITION)
    _, old = definition["spec"]["versions"]
    older = {**old, "name": "v1alpha1", "deprecated": True, "deprecationWarning": "not any more"}
    old["deprecated"] = True
    definition["spec"]["versions"].append(older)
    await api.post(CRDS, definition)
    assert api.status == 201
    for version, wanted in (
        ("v1", []),
        ("v1beta1", ['299 - "example.com/v1beta1 Boat is deprecated; use example.com/v1 Boat"']),
        ("v1alpha1", ['299 - "not any more"']),
    ):
        await until(api, BOATS.replace("v1", version), 200)
        assert api.headers.getall("Warning", []) == wanted
    document = await api.get("/openapi/v3/apis/example.com/v1")
    schema = document["components"]["schemas"]["com.example.v1.Boat"]
    assert schema["x-kubernetes-selectable-fields"] == [{"fieldPath": "spec.length"}]
    older["deprecationWarning"] = "a\nb"
    refused = await api.merge(f"{CRDS}/boats.example.com", {"spec": {"versions": definition["spec"]["versions"]}})
    assert "non-printable character found at index 1" in refused["message"]
