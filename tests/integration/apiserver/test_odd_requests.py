"""What clients get wrong, answered word for word as kube-apiserver v1.36 answers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.integration.apiserver.cluster import secured_cluster
from tests.integration.apiserver.server import CONFIG_MAPS, Api, config_map

Object = dict[str, Any]
ACCESS = "/apis/authorization.k8s.io/v1"
POLICIES = 'supported values: "Foreground", "Background", "Orphan", "nil"'
STRUCT = 'struct { APIVersion string "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }'


@pytest.mark.parametrize(
    ("query", "code", "told"),
    [
        ({"gracePeriodSeconds": ""}, 400, 'strconv.ParseInt: parsing "": invalid syntax'),
        ({"propagationPolicy": ""}, 422, f'propagationPolicy: Unsupported value: "": {POLICIES}'),
        ({"uid": "x"}, 409, "the UID in the precondition (x) does not match the UID in record"),
        ({"resourceVersion": "1"}, 409, "the ResourceVersion in the precondition (1) does not match the"),
        ({"uid": "", "resourceVersion": ""}, 200, ""),
        ({"orphanDependents": "false"}, 200, ""),
    ],
)
async def test_delete_options_in_the_query(api: Api, query: dict[str, str], code: int, told: str) -> None:
    await api.post(CONFIG_MAPS, config_map("c"))
    answer = await api.delete(f"{CONFIG_MAPS}/c?{urlencode(query)}")
    assert api.status == code
    assert told in answer.get("message", "")


async def test_every_word_but_false_leaves_dependents_behind(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("c"))
    answer = await api.delete(f"{CONFIG_MAPS}/c?orphanDependents=x")
    assert answer["metadata"]["finalizers"] == ["orphan"]


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ({"preconditions": {"uid": ""}}, 409, "the UID in the precondition () does not match the UID in record"),
        ({"preconditions": {}}, 200, ""),
        (
            {"kind": "Status", "apiVersion": "v1"},
            400,
            "converting (v1.Status) to (v1.DeleteOptions): unknown conversion",
        ),
        ({"kind": "Pod", "apiVersion": "v1"}, 400, 'no kind "Pod" is registered for version "v1" in scheme '),
        ({"propagationPolicy": 5}, 400, "DeleteOptions.propagationPolicy of type v1.DeletionPropagation"),
        (
            [],
            400,
            f"couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type {STRUCT}",
        ),
    ],
)
async def test_delete_options_in_the_body(api: Api, body: object, code: int, told: str) -> None:
    await api.post(CONFIG_MAPS, config_map("c"))
    answer = await api.delete(f"{CONFIG_MAPS}/c", body)
    assert api.status == code
    assert told in answer.get("message", "")


@pytest.mark.parametrize(
    ("path", "api_version", "kind", "told"),
    [
        (
            "apis/apps/v1/namespaces/d/deployments",
            "extensions/v1beta1",
            "Deployment",
            "the API version in the data (extensions/v1beta1) does not match the expected API version (apps/v1)",
        ),
        (
            "apis/batch/v1/namespaces/d/cronjobs",
            "batch/v1beta1",
            "CronJob",
            "the API version in the data (batch/v1beta1) does not match the expected API version (batch/v1)",
        ),
        (
            "api/v1/namespaces/d/events",
            "events.k8s.io/v1",
            "Event",
            "the API version in the data (events.k8s.io/v1) does not match the expected API version (v1)",
        ),
        (
            "api/v1/namespaces/d/pods",
            "apps/v1beta1",
            "Deployment",
            (
                'Deployment in version "v1beta1" cannot be handled as a Pod: '
                "converting (v1beta1.Deployment) to (core.Pod): unknown conversion"
            ),
        ),
    ],
)
async def test_versions_of_the_past(api: Api, path: str, api_version: str, kind: str, told: str) -> None:
    answer = await api.post(f"/{path}", {"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}})
    assert (api.status, answer["message"]) == (400, told)


async def test_access_reviews_are_about_their_spec_alone(tmp_path: Path) -> None:
    asks = {"verb": "get", "resource": "pods"}
    async with secured_cluster(tmp_path) as cluster:

        async def post(path: str, body: Object) -> tuple[int, Any]:
            context = cluster.context("root", "system:masters")
            return await cluster.ask("POST", f"{ACCESS}/{path}", body, context=context)

        status, answer = await post("selfsubjectaccessreviews", {"metadata": {"name": "x"}})
        assert status == 422
        assert answer["message"] == (
            '.authorization.k8s.io "" is invalid: [spec.resourceAttributes: Invalid value: null: exactly one of '
            "nonResourceAttributes or resourceAttributes must be specified, metadata: Invalid value: "
            '{"name":"x"}: must be empty]'
        )
        spec = {"resourceAttributes": {**asks, "namespace": "d"}, "user": "u"}
        status, answer = await post("namespaces/d/localsubjectaccessreviews", {"metadata": {"uid": "x"}, "spec": spec})
        assert (status, answer["metadata"]["namespace"], "uid" in answer["metadata"]) == (201, "d", False)
        labelled = {"metadata": {"labels": {"a": "b"}}, "spec": spec}
        status, answer = await post("namespaces/d/localsubjectaccessreviews", labelled)
        told = answer["details"]["causes"][0]["message"]
        assert told.startswith('Invalid value: {"namespace":"d","labels":{"a":"b"},"managedFields":[')
        assert told.endswith("]}: must be empty except for namespace")
        status, answer = await post("namespaces/d/localsubjectaccessreviews", {"spec": {"resourceAttributes": asks}})
        assert [cause["field"] for cause in answer["details"]["causes"]] == [
            "spec.user",
            "spec.resourceAttributes.namespace",
        ]
        for nowhere in ("localsubjectaccessreviews", "namespaces/d/selfsubjectaccessreviews", "subjectaccessreviews/x"):
            assert (await post(nowhere, {}))[0] == 404
