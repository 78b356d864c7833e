"""The normal form: recorded answers are their own, and what clients write becomes what the server answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.shared_data import needs_shared
from tests.unit.machinery.golden import ROUNDTRIP, cases, steps
from tiphys.api.schemas import has_schema, schema_of
from tiphys.machinery.codec import decode_json
from tiphys.machinery.meta import split_api_version
from tiphys.machinery.misfit import DecodeError
from tiphys.machinery.normalize import decoded, normalize, normalize_strictly, zero

DEPLOYMENT = schema_of("apps", "v1", "Deployment")
POD = schema_of("", "v1", "Pod")


def spec_of(normal: dict[str, Any]) -> Any:
    return normal["spec"]


def test_order_and_values_are_the_servers() -> None:
    normal = normalize(
        {
            "spec": {"paused": False, "replicas": 0, "unknown": 1, "template": None, "selector": {}},
            "metadata": {"labels": {"b": "1", "a": "2"}, "annotations": {}, "name": "d"},
            "apiVersion": "apps/v1",
            "kind": "Deployment",
        },
        DEPLOYMENT,
    )
    assert list(normal) == ["kind", "apiVersion", "metadata", "spec", "status"]
    assert normal["metadata"] == {"name": "d", "labels": {"a": "2", "b": "1"}}
    assert list(normal["metadata"]["labels"]) == ["a", "b"]
    assert normal["spec"] == {
        "replicas": 0,
        "selector": {},
        "template": {"metadata": {}, "spec": {"containers": None}},
        "strategy": {},
    }


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ({"limits": {"cpu": 1.5, "memory": "1024Mi"}}, {"limits": {"cpu": "1500m", "memory": "1Gi"}}),
        ({"limits": {}}, {}),
        (None, {}),
    ],
    ids=["quantities", "empty", "null"],
)
def test_quantities(value: Any, normal: Any) -> None:
    pod = normalize({"spec": {"containers": [{"name": "c", "resources": value}]}}, POD)
    assert pod["spec"]["containers"] == [{"name": "c", "resources": normal}]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("2024-01-01T02:00:00.5+02:00", "2024-01-01T00:00:00Z"),
    ],
)
def test_times_are_whole_seconds_in_utc(text: str, normal: str) -> None:
    status = {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": text}]}
    condition = normalize({"status": status}, POD)["status"]["conditions"][0]
    assert condition == {"type": "Ready", "status": "True", "lastProbeTime": None, "lastTransitionTime": normal}


def test_nulls_in_lists_and_maps_are_zero() -> None:
    assert normalize({"spec": {"tolerations": [None]}}, POD)["spec"]["tolerations"] == [{}]
    config = normalize({"data": {"a": None}}, schema_of("", "v1", "ConfigMap"))
    assert config["data"] == {"a": ""}


def test_an_empty_list_is_null_once_it_is_stored() -> None:
    schema = schema_of("storage.k8s.io", "v1", "CSINode")
    written = {"spec": {"drivers": []}}
    assert decoded(written, schema)["spec"] == {"drivers": []}
    assert normalize(written, schema)["spec"] == {"drivers": None}
    assert zero(schema)["spec"] == {"drivers": None}


UNMARSHAL = "json: cannot unmarshal"
MISMATCHES = [
    (
        {"replicas": "1"},
        f"{UNMARSHAL} string into Go struct field DeploymentSpec.spec.replicas of type int32",
    ),
    ({"replicas": 1.5}, f"{UNMARSHAL} number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
    (
        {"replicas": 3000000000},
        f"{UNMARSHAL} number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
    ),
    ({"paused": "true"}, f"{UNMARSHAL} string into Go struct field DeploymentSpec.spec.paused of type bool"),
    (
        {"selector": []},
        f"{UNMARSHAL} array into Go struct field DeploymentSpec.spec.selector of type v1.LabelSelector",
    ),
    (
        {"template": {"spec": {"containers": [{"env": [{"name": 5}]}]}}},
        f"{UNMARSHAL} number into Go struct field EnvVar.spec.template.spec.containers.env.name of type string",
    ),
]


@pytest.mark.parametrize(("spec", "message"), MISMATCHES, ids=[str(i) for i in range(len(MISMATCHES))])
def test_wrong_types_are_refused_in_the_servers_words(spec: Any, message: str) -> None:
    with pytest.raises(DecodeError) as error:
        normalize({"spec": spec}, DEPLOYMENT)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("patched", "message"),
    [
        ({"spec": {"replicas": "x"}}, "unrecognized type: int32"),
        ({"spec": {"template": {"spec": {"containers": "x"}}}}, "cannot restore slice from string"),
        ({"spec": 5}, "cannot restore struct from: int64"),
    ],
)
def test_after_a_strategic_merge_patch_the_words_are_others(patched: Any, message: str) -> None:
    with pytest.raises(DecodeError) as error:
        normalize(patched, DEPLOYMENT)
    assert error.value.converted == message


def test_bad_base64_is_refused_at_its_place() -> None:
    with pytest.raises(DecodeError, match="illegal base64 data at input byte 3"):
        normalize({"data": {"a": "abc*"}}, schema_of("", "v1", "Secret"))


def objects(answer: Any) -> list[dict[str, Any]]:
    return [answer] if isinstance(answer, dict) and answer.get("kind") else []


@needs_shared
@pytest.mark.parametrize(
    "area", ["admission", "apply", "bootstrap", "defaults", "list", "patch", "services", "update", "validation"]
)
def test_recorded_answers_are_in_normal_form(area: str) -> None:
    seen = 0
    for path in cases(f"{area}/*"):
        for step in steps(path):
            for obj in objects(step.answer):
                group, version = split_api_version(obj.get("apiVersion", ""))
                if has_schema(group, version, obj["kind"]):
                    normal = normalize(obj, schema_of(group, version, obj["kind"]))
                    assert normal == obj, step
                    assert_same_order(normal, obj, str(step))
                    seen += 1
    assert seen


def assert_same_order(left: Any, right: Any, where: str) -> None:
    if isinstance(left, dict):
        assert list(left) == list(right), where
        for key, value in left.items():
            assert_same_order(value, right[key], f"{where}.{key}")
    elif isinstance(left, list):
        for one, other in zip(left, right, strict=True):
            assert_same_order(one, other, where)


def filled_kinds() -> list[Path]:
    kinds = []
    for path in sorted(ROUNDTRIP.glob("*.json")):
        group_version, _, kind = path.stem.rpartition(".")
        group, _, version = group_version.rpartition(".")
        if has_schema("" if group == "core" else group, version, kind):
            kinds.append(path)
    return kinds


@needs_shared
@pytest.mark.parametrize("path", filled_kinds(), ids=lambda path: path.stem)
def test_every_field_of_every_kind_is_kept_in_order(path: Path) -> None:
    obj = decode_json(path.read_bytes())
    group_version, _, kind = path.stem.rpartition(".")
    group, _, version = group_version.rpartition(".")
    normal = normalize(obj, schema_of("" if group == "core" else group, version, kind))
    assert normal == obj
    assert_same_order(normal, obj, kind)


POD_SPEC = {"containers": [{"name": "a", "image": "b", "resources": {"limits": {"cpu": "1000m"}}}], "nodeName": ""}


def test_parts_equal_to_the_version_before_are_taken_from_it() -> None:
    schema = schema_of("", "v1", "Pod")
    before = normalize({"metadata": {"name": "a"}, "spec": POD_SPEC, "status": {"phase": "Pending"}}, schema)
    changed = {"status": {"phase": "Running", "x": 1}, "metadata": {"name": "a"}, "spec": dict(before["spec"])}
    after = normalize(changed, schema, before, checked=True)
    assert after == normalize(changed, schema)
    assert list(after) == list(normalize(changed, schema))
    assert after["spec"] is before["spec"]
    assert after["status"] == {"phase": "Running"}


def test_what_is_only_equal_is_not_taken_for_right() -> None:
    before = normalize({"spec": {"replicas": 1}}, DEPLOYMENT)
    with pytest.raises(DecodeError, match=r"cannot unmarshal bool into Go struct field DeploymentSpec.spec.replicas"):
        normalize({"spec": {**before["spec"], "replicas": True}}, DEPLOYMENT, before)
    shared = normalize({**before, "metadata": {"name": "a"}}, DEPLOYMENT, before)
    assert shared["spec"] is before["spec"]


@pytest.mark.parametrize(
    ("more", "doubtful"),
    [
        ({}, False),
        ({"kind": "Pod", "apiVersion": "v1"}, False),
        ({"x": 1}, True),
        ({"spec": {**POD_SPEC, "x": 1}}, True),
        ({"spec": {"containers": [{"x": 1}]}}, True),
    ],
    ids=["nothing more", "kind", "top", "struct", "item of a list"],
)
def test_fields_that_the_type_does_not_have_are_noticed(more: dict[str, Any], doubtful: bool) -> None:
    schema = schema_of("", "v1", "Pod")
    obj = {"metadata": {"labels": {"x": "y"}}, "spec": POD_SPEC, **more}
    for _ in range(2):  # the second time by the remembered plan
        assert normalize_strictly(obj, schema) == (normalize(obj, schema), doubtful)


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("Pod", ("spec", "volumes", 0, "nfs"), "Volume.spec.volumes.VolumeSource.nfs of type v1.NFSVolumeSource"),
        ("Pod", ("spec", "restartPolicy"), "PodSpec.spec.restartPolicy of type v1.RestartPolicy"),
        ("ResourceQuota", ("spec", "scopes"), "ResourceQuotaSpec.spec.scopes of type []v1.ResourceQuotaScope"),
        ("ResourceQuota", ("spec", "scopes", 0), "ResourceQuotaSpec.spec.scopes of type v1.ResourceQuotaScope"),
        ("ResourceQuota", ("spec", "hard"), "ResourceQuotaSpec.spec.hard of type v1.ResourceList"),
    ],
)  # fmt: skip
def test_messages_name_types_and_embedded_structs(kind: str, path: tuple[str | int, ...], message: str) -> None:
    value: Any = True
    for part in reversed(path):
        value = [value] if isinstance(part, int) else {part: value}
    with pytest.raises(DecodeError, match=re.escape(f"json: cannot unmarshal bool into Go struct field {message}")):
        normalize(value, schema_of("", "v1", kind))
