"""Custom resources whose versions a webhook converts: written in one version, stored in another, shown in both."""

from __future__ import annotations

import base64
import copy
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.integration.apiserver.server import Api
from tests.integration.apiserver.test_custom_resources import CRDS, api, until
from tiphys.apiserver.pki import Authority

__all__ = ["api"]

Object = dict[str, Any]
HOSTS = "/apis/example.com/{}/namespaces/d/hosts"
V1, V2 = HOSTS.format("v1"), HOSTS.format("v2")


def converted(obj: Object, version: str) -> Object:
    """v1 has spec.hostPort "h:1", v2 spec.host and spec.port."""
    out: Object = copy.deepcopy(obj)
    out["apiVersion"] = version
    spec = out.setdefault("spec", {})
    if version.endswith("/v2") and "hostPort" in spec:
        host, _, port = spec.pop("hostPort").partition(":")
        spec |= {"host": host, "port": port, "unknown": "pruned"}
    elif version.endswith("/v1") and "host" in spec:
        spec["hostPort"] = f"{spec.pop('host')}:{spec.pop('port', '')}"
    return out


class Webhook:
    """A conversion webhook; `spoil` may change its answer."""

    def __init__(self) -> None:
        self.requests: list[Object] = []
        self.spoil: Callable[[Object], None] = lambda response: None
        self.status = 200
        self.url = self.bundle = ""

    async def answer(self, request: web.Request) -> web.Response:
        review = await request.json()
        asked = review["request"]
        self.requests.append(asked)
        response = {
            "uid": asked["uid"],
            "result": {"status": "Success"},
            "convertedObjects": [converted(one, asked["desiredAPIVersion"]) for one in asked["objects"]],
        }
        self.spoil(response)
        return web.json_response(
            {"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response}, status=self.status
        )

    @property
    def sizes(self) -> list[int]:
        """How many objects were sent at a time, since the last call."""
        sizes = [len(one["objects"]) for one in self.requests]
        self.requests.clear()
        return sizes


def version(name: str, *, storage: bool, **fields: Any) -> Object:
    properties = {key: {"type": "string"} for key in fields}
    for key, default in fields.items():
        if default:
            properties[key]["default"] = default
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}
    return {
        "name": name,
        "served": True,
        "storage": storage,
        "schema": {"openAPIV3Schema": schema},
        "selectableFields": [{"jsonPath": f".spec.{next(iter(fields))}"}],
        "additionalPrinterColumns": [{"name": key, "type": "string", "jsonPath": f".spec.{key}"} for key in fields],
    }


def definition(webhook: Webhook) -> Object:
    client = {"url": webhook.url, "caBundle": webhook.bundle}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "hosts.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "hosts", "kind": "Host"},
            "conversion": {
                "strategy": "Webhook",
                "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]},
            },
            "versions": [
                version("v1", storage=True, hostPort="", mode="plain"),
                version("v2", storage=False, host="", port="", mode=""),
            ],
        },
    }


def host(name: str, version: str = "v1", **spec: Any) -> Object:
    spec = spec or {"hostPort": f"{name}:80"}
    return {"apiVersion": f"example.com/{version}", "kind": "Host", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
async def webhook(tmp_path: Path) -> AsyncIterator[Webhook]:
    hook = Webhook()
    authority = Authority.create("ca")
    pair = authority.server("hook", ["localhost", "127.0.0.1"])
    (tmp_path / "crt").write_bytes(pair.certificate)
    (tmp_path / "key").write_bytes(pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    hook.bundle = base64.b64encode(authority.pem).decode()
    app = web.Application()
    app.router.add_post("/convert", hook.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    hook.url = f"https://127.0.0.1:{runner.addresses[0][1]}/convert"
    yield hook
    await runner.cleanup()


@pytest.fixture
async def hosts(api: Api, webhook: Webhook) -> Api:
    await api.post(CRDS, definition(webhook))
    assert api.status == 201
    await until(api, V1, 200)
    await until(api, V2, 200)
    return api


async def test_written_in_one_version_read_in_another(hosts: Api, webhook: Webhook) -> None:
    created = await hosts.post(V1, host("a"))
    assert hosts.status == 201, created
    assert created["apiVersion"] == "example.com/v1"
    assert webhook.sizes == []  # it is stored as it came
    shown = await hosts.get(f"{V2}/a")
    assert shown["apiVersion"] == "example.com/v2"
    assert shown["spec"] == {"host": "a", "port": "80", "mode": "plain"}  # pruned, with the stored version's defaults
    assert shown["metadata"] == created["metadata"]
    assert webhook.sizes == [1]

    created = await hosts.post(V2, host("b", "v2", host="b", port="81"))
    assert hosts.status == 201, created
    assert created["apiVersion"] == "example.com/v2"
    assert created["spec"] == {"host": "b", "port": "81", "mode": "plain"}
    assert (await hosts.get(f"{V1}/b"))["spec"] == {"hostPort": "b:81", "mode": "plain"}


async def test_lists_are_converted_in_one_request(hosts: Api, webhook: Webhook) -> None:
    for name in ("a", "b", "c"):
        await hosts.post(V1, host(name))
    found = await hosts.get(V2)
    assert [one["spec"]["host"] for one in found["items"]] == ["a", "b", "c"]
    assert {one["apiVersion"] for one in found["items"]} == {"example.com/v2"}
    assert webhook.sizes == [3]
    await hosts.get(V2)
    assert webhook.sizes == []
    selected = await hosts.get(f"{V2}?fieldSelector=spec.host%3Db")
    assert [one["metadata"]["name"] for one in selected["items"]] == ["b"]
    selected = await hosts.get(f"{V1}?fieldSelector=spec.hostPort%3Dc:80")
    assert [one["metadata"]["name"] for one in selected["items"]] == ["c"]
    page = await hosts.get(f"{V2}?limit=2")
    assert [one["spec"]["host"] for one in page["items"]] == ["a", "b"]
    await hosts.post(V1, host("aa"))
    page = await hosts.get(f"{V2}?limit=2&continue={page['metadata']['continue']}")
    assert [one["spec"]["host"] for one in page["items"]] == ["c"]
    table = await hosts.get(V2, Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    assert [one["name"] for one in table["columnDefinitions"]] == ["Name", "host", "port", "mode"]
    assert table["rows"][0]["cells"] == ["a", "a", "80", "plain"]


async def test_watches_see_changes_of_other_versions(hosts: Api, webhook: Webhook) -> None:
    created = await hosts.post(V1, host("a"))
    revision = created["metadata"]["resourceVersion"]
    await hosts.merge(f"{V1}/a", {"spec": {"hostPort": "x:1"}})
    await hosts.post(V2, host("b", "v2", host="b", port="2"))
    await hosts.delete(f"{V1}/a")
    for path, wanted in (
        (f"{V2}?watch=1&resourceVersion={revision}", [("MODIFIED", "x"), ("ADDED", "b"), ("DELETED", "x")]),
        (f"{V2}?watch=1", [("ADDED", "b")]),
    ):
        events = await hosts.events(path, len(wanted))
        assert [(one["type"], one["object"]["spec"]["host"]) for one in events] == wanted
        assert {one["object"]["apiVersion"] for one in events} == {"example.com/v2"}


async def test_updates_patches_and_apply_in_the_version_not_stored(hosts: Api, webhook: Webhook) -> None:
    await hosts.post(V1, host("a"))
    shown = await hosts.get(f"{V2}/a")
    shown["spec"]["port"] = "82"
    updated = await hosts.put(f"{V2}/a", shown)
    assert hosts.status == 200, updated
    assert updated["spec"]["port"] == "82"
    patched = await hosts.merge(f"{V2}/a", {"spec": {"host": "z"}})
    assert patched["spec"]["host"] == "z", patched
    assert (await hosts.get(f"{V1}/a"))["spec"]["hostPort"] == "z:82"
    applied = await hosts.apply(f"{V2}/a", host("a", "v2", port="83"), "me", force=True)
    assert hosts.status == 200, applied
    assert (await hosts.get(f"{V1}/a"))["spec"]["hostPort"] == "z:83"
    applied = await hosts.apply(f"{V1}/a", host("a", hostPort="y:1"), "other", force=True)
    assert hosts.status == 200, applied
    assert (await hosts.get(f"{V2}/a"))["spec"] == {"host": "y", "port": "1", "mode": "plain"}
    applied = await hosts.apply(f"{V2}/new", host("new", "v2", host="n", port="1"), "me")
    assert hosts.status == 201, applied
    await hosts.delete(f"{V2}/new")
    assert hosts.status == 200
    await hosts.get(f"{V1}/new")
    assert hosts.status == 404


async def test_only_labels_and_annotations_of_metadata_change(hosts: Api, webhook: Webhook) -> None:
    def relabel(response: Object) -> None:
        for one in response["convertedObjects"]:
            one["metadata"] |= {"labels": {"by": "webhook"}, "finalizers": ["example.com/no"], "generation": 99}

    created = await hosts.post(V1, host("a"))
    webhook.spoil = relabel
    shown = await hosts.get(f"{V2}/a")
    assert shown["metadata"] == {**created["metadata"], "labels": {"by": "webhook"}}
    selected = await hosts.get(f"{V2}?labelSelector=by")
    assert len(selected["items"]) == 1
    assert (await hosts.get(f"{V1}?labelSelector=by"))["items"] == []


def drop(response: Object) -> None:
    response["convertedObjects"] = []


def fail(response: Object) -> None:
    response["result"] = {"status": "Failure", "message": "no such thing"}


def rename(response: Object) -> None:
    response["convertedObjects"][0]["metadata"]["name"] = "other"


def keep_version(response: Object) -> None:
    response["convertedObjects"][0]["apiVersion"] = "example.com/v3"


def other_uid(response: Object) -> None:
    response["uid"] = "1"


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (drop, "conversion webhook for example.com/v1, Kind=Host returned 0 objects, expected 1"),
        (fail, "conversion webhook for example.com/v1, Kind=Host failed: no such thing"),
        (rename, "must have the same name: a != other"),
        (keep_version, "returned invalid object at index 0: invalid groupVersion (expected example.com/v2, "),
        (other_uid, 'expected response.uid="'),
    ],
    ids=["fewer objects", "failure", "renamed", "not converted", "another answer"],
)
async def test_failures_are_told(hosts: Api, webhook: Webhook, spoil: Callable[[Object], None], wanted: str) -> None:
    await hosts.post(V1, host("a"))
    webhook.spoil = spoil
    for path in (f"{V2}/a", V2, f"{V2}?watch=1"):
        answer = await hosts.get(path)
        assert hosts.status == 500
        assert wanted in answer["message"]
        assert answer["message"].startswith("conversion webhook for example.com/v1, Kind=Host ")
    await hosts.get(V1)
    assert hosts.status == 200  # what is stored needs nobody
    answer = await hosts.post(V2, host("b", "v2", host="b", port="1"))
    assert hosts.status == 500
    assert answer["message"].startswith("conversion webhook for example.com/v2, Kind=Host ")
    webhook.spoil = lambda response: None
    assert len((await hosts.get(V2))["items"]) == 1


async def test_the_storage_version_may_move(hosts: Api, webhook: Webhook) -> None:
    await hosts.post(V1, host("old"))
    found = await hosts.get(f"{CRDS}/hosts.example.com")
    for one in found["spec"]["versions"]:
        one["storage"] = one["name"] == "v2"
    found = await hosts.put(f"{CRDS}/hosts.example.com", found)
    assert found["status"]["storedVersions"] == ["v1", "v2"]
    created = await hosts.post(V1, host("new"))
    assert hosts.status == 201, created
    webhook.requests.clear()
    assert [one["spec"]["host"] for one in (await hosts.get(V2))["items"]] == ["new", "old"]
    assert webhook.sizes == [1]  # the old one only
    assert [one["spec"]["hostPort"] for one in (await hosts.get(V1))["items"]] == ["new:80", "old:80"]
    # Written once, it is stored in the new version.
    await hosts.merge(f"{V1}/old", {"metadata": {"annotations": {"migrated": "yes"}}})
    webhook.requests.clear()
    assert (await hosts.get(f"{V2}/old"))["spec"]["host"] == "old"
    assert webhook.sizes == []
    await hosts.delete(f"{CRDS}/hosts.example.com")
    await until(hosts, f"{CRDS}/hosts.example.com", 404)


async def test_policies_see_the_version_they_name(hosts: Api, webhook: Webhook) -> None:
    policies = "/apis/admissionregistration.k8s.io/v1"
    policy = {
        "metadata": {"name": "ports"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["example.com"],
                        "apiVersions": ["v2"],
                        "operations": ["CREATE"],
                        "resources": ["hosts"],
                    }
                ]
            },
            "validations": [{"expression": "object.spec.port != '13'", "message": "no luck"}],
        },
    }
    await hosts.post(f"{policies}/validatingadmissionpolicies", policy)
    binding = {"metadata": {"name": "ports"}, "spec": {"policyName": "ports", "validationActions": ["Deny"]}}
    await hosts.post(f"{policies}/validatingadmissionpolicybindings", binding)
    await hosts.post(V1, host("a", hostPort="a:12"))
    assert hosts.status == 201
    refused = await hosts.post(V1, host("b", hostPort="b:13"))
    assert hosts.status == 422
    assert refused["message"].endswith("denied request: no luck")


async def test_what_a_definition_may_say(hosts: Api, webhook: Webhook) -> None:
    bad = definition(webhook)
    bad["metadata"]["name"], bad["spec"]["names"] = "others.example.com", {"plural": "others", "kind": "Other"}
    bad["spec"]["conversion"]["webhook"]["clientConfig"]["url"] = "http://a/b"
    bad["spec"]["conversion"]["webhook"]["conversionReviewVersions"] = ["v9"]
    answer = await hosts.post(CRDS, bad)
    assert [one["field"] for one in answer["details"]["causes"]] == [
        "spec.conversion.webhookClientConfig.url",
        "spec.conversion.conversionReviewVersions",
    ]
