"""What other servers say about themselves, turned into what ours says: discovery, OpenAPI; who asks, as headers."""

from typing import Any

import pytest

from tiphys.apiserver.aggregator.apiservices import Registration
from tiphys.apiserver.aggregator.discovery import from_resource_list, version_entry
from tiphys.apiserver.aggregator.identity import identity_headers
from tiphys.apiserver.aggregator.openapi import own_part
from tiphys.apiserver.aggregator.transport import TransportError
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.openapi.merging import ForeignPart, merge
from tiphys.machinery.errors import StatusError

ONE = Registration(name="v1.g", uid="u", group="g", version="v1", group_priority=1, version_priority=1)


def test_a_version_is_found_in_an_aggregated_document() -> None:
    versions = [{"version": "v1", "resources": [{"resource": "a"}], "freshness": "Stale"}, {"version": "v2"}]
    document = {"items": [{"metadata": {"name": "other"}}, {"metadata": {"name": "g"}, "versions": versions}]}
    assert version_entry(document, ONE) == {
        "version": "v1",
        "resources": [{"resource": "a"}],
        "freshness": "Current",
    }
    assert version_entry({"items": []}, ONE) == {"version": "v1", "freshness": "Current"}


@pytest.mark.parametrize(
    "resources",
    [
        "junk",
        ["junk"],
        [{"verbs": ["get"]}],
        [{"resource": 7}],
        [{"resource": "a", "verbs": "get"}],
        [{"resource": "a", "responseKind": "A"}],
        [{"resource": "a", "subresources": [{"verbs": []}]}],
    ],
)
def test_a_malformed_document_does_not_reach_clients(resources: Any) -> None:
    versions = [{"version": "v1", "resources": resources}]
    with pytest.raises(TransportError, match="malformed"):
        version_entry({"items": [{"metadata": {"name": "g"}, "versions": versions}]}, ONE)


def test_a_resource_list_becomes_an_entry() -> None:
    listed = [
        {"name": "pods/status", "kind": "Pod", "namespaced": True, "verbs": ["get"]},
        {"name": "pods", "singularName": "pod", "kind": "Pod", "namespaced": True, "verbs": ["list"], "shortNames": []},
        {"name": "lone/scale", "kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get"]},
    ]
    found = from_resource_list({"resources": listed}, "v1")
    pods, lone = found["resources"]
    assert pods == {
        "resource": "pods",
        "responseKind": {"group": "", "version": "", "kind": "Pod"},
        "scope": "Namespaced",
        "singularResource": "pod",
        "verbs": ["list"],
        "subresources": [
            {"subresource": "status", "responseKind": {"group": "", "version": "", "kind": "Pod"}, "verbs": ["get"]}
        ],
    }
    assert lone["subresources"][0]["responseKind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}


def test_identity_as_headers() -> None:
    user = UserInfo("bob", uid="7", groups=("a", "b"), extra={"example.com/Key": ("x", "ü")})
    assert identity_headers(user) == [
        ("X-Remote-User", "bob"),
        ("X-Remote-Uid", "7"),
        ("X-Remote-Group", "a"),
        ("X-Remote-Group", "b"),
        ("X-Remote-Extra-example.com%2FKey", "x"),
        ("X-Remote-Extra-example.com%2FKey", "ü".encode().decode("latin-1")),
    ]


@pytest.mark.parametrize("name", ["bob\r\nX-Remote-Group: system:masters", "a\nb", "a\0"])
def test_nobody_becomes_another_by_a_line_break(name: str) -> None:
    for user in (UserInfo(name), UserInfo("a", groups=(name,)), UserInfo("a", extra={"k": (name,)})):
        with pytest.raises(StatusError):
            identity_headers(user)


def reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/definitions/{name}"}


def test_a_part_is_cut_to_its_group_and_version() -> None:
    document: dict[str, Any] = {
        "paths": {
            "/apis/g/v1/things": {"parameters": [{"$ref": "#/parameters/pretty"}], "get": {"s": reference("Thing")}},
            "/apis/g/v10/things": {"get": {"s": reference("Other")}},
            "/version/": {},
        },
        "parameters": {"pretty": {"name": "pretty", "in": "query", "type": "string"}},
        "definitions": {"Thing": {"p": reference("Meta")}, "Meta": {}, "Other": {}},
    }
    paths, definitions = own_part(document, "/apis/g/v1")
    assert list(paths) == ["/apis/g/v1/things"]
    assert paths["/apis/g/v1/things"]["parameters"] == [{"name": "pretty", "in": "query", "type": "string"}]
    assert sorted(definitions) == ["Meta", "Thing"]


def test_definitions_that_differ_are_kept_both() -> None:
    paths: dict[str, Any] = {"/ours": {"get": reference("List")}}
    definitions: dict[str, Any] = {"List": {"p": reference("Meta")}, "Meta": {"d": "ours"}, "Same": {"d": 1}}
    theirs: dict[str, Any] = {
        "List": {"p": reference("Meta")},
        "Meta": {"d": "theirs"},
        "Same": {"d": 1},
        "New": reference("List"),
    }
    part = ForeignPart(place="apis/g/v1", paths={"/theirs": reference("New"), "/ours": {}}, definitions=theirs)
    other = ForeignPart(place="apis/h/v1", paths={"/third": reference("Meta")}, definitions={"Meta": {"d": "third"}})
    merge(paths, definitions, [part, other])
    assert definitions["Meta"] == {"d": "ours"}
    assert definitions["Meta_v2"] == {"d": "theirs"}
    assert definitions["List_v2"] == {"p": reference("Meta_v2")}  # the same words, but another Meta
    assert definitions["New"] == reference("List_v2")
    assert "Same_v2" not in definitions
    assert paths["/ours"] == {"get": reference("List")}
    assert paths["/third"] == reference("Meta_v3")
