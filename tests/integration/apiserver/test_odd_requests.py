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


EVENTS = "/apis/events.k8s.io/v1/namespaces/d/events"
CORE_EVENTS = "/api/v1/namespaces/d/events"
WHEN = "2020-01-01T00:00:00.000000Z"
EVENT = {
    "metadata": {"name": "e"},
    "eventTime": WHEN,
    "reportingController": "example.com/c",
    "reportingInstance": "i",
    "action": "Act",
    "reason": "Because",
    "type": "Normal",
    "regarding": {"kind": "Pod", "name": "p", "namespace": "d"},
}


@pytest.mark.parametrize(
    ("time", "part", "rest"),
    [
        ("2020-01-01T00:00:00Z", ".000000", "Z"),
        ("2020-01-01T00:00:00.1Z", ".000000", ".1Z"),
        ("2020-01-01T00:00:00.123456789Z", "Z07:00", "789Z"),
    ],
)
async def test_a_micro_time_has_six_digits(api: Api, time: str, part: str, rest: str) -> None:
    answer = await api.post(EVENTS, {**EVENT, "eventTime": time})
    assert api.status == 400
    assert answer["message"] == (
        'Event in version "v1" cannot be handled as a Event: '
        f'parsing time "{time}" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "{rest}" as "{part}"'
    )
    there = await api.post(EVENTS, {**EVENT, "eventTime": "2020-01-01T02:00:00.500000+02:00"})
    assert there["eventTime"] == "2020-01-01T00:00:00.500000Z"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"note": "x"}, 'message: Invalid value: "x": field is immutable'),
        ({"deprecatedCount": 5}, "count: Invalid value: 5: field is immutable"),
        (
            {"deprecatedSource": {"component": "z"}},
            'source: Invalid value: {"Component":"z","Host":""}: field is immutable',
        ),
        (
            {"regarding": {"name": "z"}},
            (
                'involvedObject: Invalid value: {"Kind":"Pod","Namespace":"d","Name":"z","UID":"","APIVersion":"",'
                '"ResourceVersion":"","FieldPath":""}: field is immutable'
            ),
        ),
        ({"eventTime": None}, "eventTime: Invalid value: null: field is immutable"),
        ({"series": {"count": 1, "lastObservedTime": WHEN}}, 'series.count: Invalid value: "": should be at least 2'),
        ({"series": {"count": 2, "lastObservedTime": WHEN}, "metadata": {"labels": {"a": "b"}}}, ""),
    ],
)
async def test_only_the_series_of_an_event_moves(api: Api, change: Object, told: str) -> None:
    await api.post(EVENTS, EVENT)
    answer = await api.merge(f"{EVENTS}/e", change)
    assert (api.status, answer.get("message", "")) == ((422, f'Event "e" is invalid: {told}') if told else (200, ""))


async def test_names_of_core_events_are_anything_a_path_may_hold(api: Api) -> None:
    event = {"involvedObject": {"kind": "Pod", "name": "p", "namespace": "d"}}
    await api.post(CORE_EVENTS, {"metadata": {"name": "Capital"}, **event})
    assert api.status == 201
    answer = await api.post(CORE_EVENTS, {"metadata": {"name": "a/b"}, **event})
    assert answer["message"] == 'Event "a/b" is invalid: metadata.name: Invalid value: "a/b": may not contain \'/\''


async def test_managers_of_one_group_know_nothing_of_the_other(api: Api) -> None:
    await api.post(EVENTS, EVENT)
    changed = await api.merge(f"{CORE_EVENTS}/e", {"message": "x"})
    assert [entry["apiVersion"] for entry in changed["metadata"]["managedFields"]] == ["v1"]


DEPLOYMENTS = "/apis/apps/v1/namespaces/d/deployments"


@pytest.mark.parametrize(
    ("metadata", "code", "told"),
    [
        (
            {"uid": "x"},
            409,
            "Key: /registry/deployments/d/web, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed",
        ),
        ({"resourceVersion": "1"}, 409, "the object has been modified"),
        ({"resourceVersion": "x"}, 500, 'strconv.ParseUint: parsing "x": invalid syntax'),
        ({"resourceVersion": "0"}, 200, ""),
        ({"labels": {"a b": "c"}}, 422, 'Scale.autoscaling "web" is invalid: metadata.labels: Invalid value: "a b": '),
    ],
)
async def test_scales_of_something_else(api: Api, metadata: Object, code: int, told: str) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    await api.post(DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": spec})
    answer = await api.put(
        f"{DEPLOYMENTS}/web/scale", {"metadata": {"name": "web", **metadata}, "spec": {"replicas": 2}}
    )
    assert api.status == code
    assert told in answer.get("message", "")


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ({"metadata": {"name": "x"}}, 422, 'metadata.name: Invalid value: "x": must match the service account name if'),
        (
            {"metadata": {"namespace": "x"}},
            400,
            "the namespace of the provided object does not match the namespace sent",
        ),
        (
            {"metadata": {"uid": "x"}},
            409,
            "the UID in the token request (x) does not match the UID of the service account",
        ),
        ({"spec": {"boundObjectRef": {}}}, 400, "cannot bind token to object of type /, Kind="),
        ({"spec": {"boundObjectRef": {"kind": "Pod"}}}, 400, "Name parameter required."),
        ({"metadata": {"labels": {"a": "b"}}}, 201, ""),
    ],
)
async def test_tokens_for_something_else(tmp_path: Path, body: Object, code: int, told: str) -> None:
    async with secured_cluster(tmp_path) as cluster:
        path = "/api/v1/namespaces/d/serviceaccounts/default/token"
        status, answer = await cluster.ask("POST", path, body, context=cluster.context("root", "system:masters"))
        assert (status, told in answer.get("message", "")) == (code, True)
        assert status != 201 or answer["metadata"]["labels"] == {"a": "b"}


SCALERS = "/apis/autoscaling/v1/namespaces/d/horizontalpodautoscalers"


async def test_a_patch_by_an_old_client_keeps_the_target(api: Api) -> None:
    target = {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}
    spec = {"maxReplicas": 3, "targetCPUUtilizationPercentage": 7, "scaleTargetRef": target}
    await api.post(SCALERS, {"metadata": {"name": "h"}, "spec": spec})
    changed = await api.merge(f"{SCALERS}/h", {"metadata": {"labels": {"a": "b"}}})
    assert changed["spec"]["targetCPUUtilizationPercentage"] == 7


FEATURE_RULE = (
    "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or "
    "MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"declaredFeatures": ["A", "Bc/D", "Bc/d"]}, ""),
        (
            {"declaredFeatures": ["A", "b"]},
            f'status.declaredFeatures[1]: Invalid value: "b": invalid feature name "b": {FEATURE_RULE}',
        ),
        ({"declaredFeatures": ["A", "A"]}, 'status.declaredFeatures[1]: Duplicate value: "A"'),
        (
            {"declaredFeatures": ["B", "A"]},
            'status.declaredFeatures[1]: Invalid value: "A": list must be sorted alphabetically',
        ),
        (
            {"addresses": [{"type": "Hostname", "address": "a"}] * 2},
            'status.addresses[1]: Duplicate value: {"Type":"Hostname","Address":"a"}',
        ),
    ],
)
async def test_statuses_of_nodes(api: Api, status: Object, told: str) -> None:
    await api.post("/api/v1/nodes", {"metadata": {"name": "n"}})
    answer = await api.merge("/api/v1/nodes/n/status", {"status": status})
    assert (api.status, answer.get("message", "")) == ((422, f'Node "n" is invalid: {told}') if told else (200, ""))


async def test_what_a_node_no_longer_says(api: Api) -> None:
    given = {"configSource": {"configMap": {"name": "c", "namespace": "d", "kubeletConfigKey": "k"}}}
    node = await api.post("/api/v1/nodes", {"metadata": {"name": "n"}, "spec": given, "status": {"config": {}}})
    assert ("configSource" in node["spec"], "config" in node["status"]) == (False, False)
    answer = await api.merge("/api/v1/nodes/n", {"spec": {"externalID": "x"}})
    assert answer["message"] == 'Node "n" is invalid: spec.externalID: Forbidden: may not be updated'
    answer = await api.post(
        "/api/v1/nodes", {"metadata": {"name": "m"}, "status": {"nodeInfo": {"swap": {"capacity": -1}}}}
    )
    assert answer["details"]["causes"][0]["field"] == "metadata.nodeSwapStatus.capacity"


PODS = "/api/v1/namespaces/d/pods"
RESIZED = {"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]}}


@pytest.mark.parametrize(
    ("metadata", "spec", "told"),
    [
        ({"annotations": {"kubernetes.io/config.mirror": "x"}}, {}, "[]: Forbidden: static pods cannot be resized"),
        ({}, {"os": {"name": "windows"}}, "[]: Forbidden: windows pods cannot be resized"),
        ({}, {}, 'spec: Invalid value: "BestEffort": Pod QOS Class may not change as a result of resizing'),
    ],
)
async def test_pods_that_are_not_resized(api: Api, metadata: Object, spec: Object, told: str) -> None:
    containers = [{"name": "c", "image": "i"}]
    pod = {"metadata": {"name": "p", **metadata}, "spec": {"nodeName": "n", "containers": containers, **spec}}
    await api.post(PODS, pod)
    answer = await api.merge(f"{PODS}/p/resize", RESIZED)
    assert (api.status, answer["message"]) == (422, f'Pod "p" is invalid: {told}')


@pytest.mark.parametrize(
    ("path", "metadata", "code", "told"),
    [
        ("pods/p/binding", {"name": "p", "namespace": "e"}, 400, "the namespace of the provided object does not match"),
        (
            "pods/p/binding",
            {"name": "p", "resourceVersion": "1"},
            409,
            "Key: /registry/pods/d/p, ResourceVersion: 0, Add",
        ),
        (
            "pods/p/eviction",
            {"name": "p", "namespace": "e"},
            400,
            "the namespace of the provided object does not match",
        ),
        ("bindings", {}, 400, "Name parameter required."),
        ("bindings", {"name": "p", "uid": "x"}, 201, ""),
    ],
)
async def test_pods_of_somewhere_else(api: Api, path: str, metadata: Object, code: int, told: str) -> None:
    await api.post(PODS, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    answer = await api.post(f"/api/v1/namespaces/d/{path}", {"metadata": metadata, "target": {"name": "n"}})
    assert (api.status, told in answer.get("message", "")) == (code, True)


async def test_what_is_no_yaml(api: Api) -> None:
    answer = await api.call("POST", CONFIG_MAPS, "a: b: c\n", Content_Type="application/yaml")
    told = "the object provided is unrecognized (must be of type ConfigMap): yaml: "
    assert (api.status, answer["message"].startswith(told)) == (400, True)
    assert answer["message"].endswith("(613a20623a20630a)")
