"""JSON patch, merge patch and strategic merge patch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared_data import needs_shared
from tests.unit.machinery.golden import cases, steps
from tiphys.api.schemas import schema_of
from tiphys.machinery.meta import split_api_version
from tiphys.machinery.normalize import normalize
from tiphys.machinery.patch.errors import BadPatchError, PatchError
from tiphys.machinery.patch.json import apply_json_patch, field_problems
from tiphys.machinery.patch.merge import apply_merge_patch, create_merge_patch
from tiphys.machinery.patch.strategic import apply_strategic_patch

POD = schema_of("", "v1", "Pod")

JSON_PATCHES = [
    ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
    ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
    ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
    ({"a": [1, 2]}, [{"op": "replace", "path": "/a/-1", "value": 3}], {"a": [1, 3]}),
    ({"a/b": {"~": 1}}, [{"op": "remove", "path": "/a~1b/~0"}], {"a/b": {}}),
    ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}),
    (
        {"a": [1]},
        [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}],
        {"a": [1], "b": [1, 2]},
    ),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}], {"a": 1}),
    ({"a": 1}, [{"op": "test", "path": "/b", "value": None}], {"a": 1}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
]


@pytest.mark.parametrize(
    ("doc", "operations", "expected"), JSON_PATCHES, ids=[str(i) for i in range(len(JSON_PATCHES))]
)
def test_json_patch(doc: Any, operations: Any, expected: Any) -> None:
    before = copy.deepcopy(doc)
    assert apply_json_patch(doc, operations) == expected
    assert doc == before


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "replace", "path": "/x", "value": 1}, {"a": 1, "x": 1}),
        ({"op": "add", "path": "/a"}, {"a": None}),
        ({"op": "copy", "from": "/x", "path": "/b"}, {"a": 1, "b": None}),
        ({"op": "add", "path": "what/b", "value": 2}, {"a": 1, "b": 2}),
    ],
    ids=str,
)
def test_json_patch_is_as_lenient_as_upstream(operation: Any, expected: Any) -> None:
    assert apply_json_patch({"a": 1}, [operation]) == expected


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "remove", "path": "/x"}],
        [{"op": "test", "path": "/a", "value": True}],
        [{"op": "add", "path": "/x/y", "value": 1}],
        [{"op": "add", "path": "/l/5", "value": 1}],
        [{"op": "add", "path": "/l/x", "value": 1}],
        [{"op": "frob", "path": "/a"}],
        [{"op": "move", "path": "/a"}],
        [{"op": "add", "value": 1}],
    ],
    ids=str,
)
def test_json_patch_operations_that_fail(operations: Any) -> None:
    with pytest.raises(PatchError):
        apply_json_patch({"a": 1, "l": []}, operations)


def test_a_json_patch_is_a_list_of_objects() -> None:
    for bad in ({}, [1], "x"):
        with pytest.raises(BadPatchError, match="json: cannot unmarshal"):
            apply_json_patch({}, bad)


@pytest.mark.parametrize(
    ("doc", "patch", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": None, "c": 3}, {"b": 2, "c": 3}),
        ({"a": {"b": 1}}, {"a": {"c": {"d": None, "e": 1}}}, {"a": {"b": 1, "c": {"e": 1}}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_merge_patch(doc: Any, patch: Any, expected: Any) -> None:
    assert apply_merge_patch(doc, patch) == expected


SCALARS = st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2)
OBJECTS = st.dictionaries(
    st.text("abc", min_size=1, max_size=1),
    st.recursive(
        SCALARS | st.lists(SCALARS, max_size=2),
        lambda i: st.dictionaries(st.text("abc", min_size=1, max_size=1), i, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@given(OBJECTS, OBJECTS)
def test_a_created_merge_patch_leads_from_one_to_the_other(old: Any, new: Any) -> None:
    assert apply_merge_patch(old, create_merge_patch(old, new)) == new


def containers(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "image": f"{name}:1"} for name in names]


STRATEGIC = {
    "an item is found by its key": (
        {"containers": containers("a", "b")},
        {"containers": [{"name": "b", "image": "new"}]},
        {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "new"}]},
    ),
    "a new item comes first when nothing says where": (
        {"containers": containers("a")},
        {"containers": containers("n")},
        {"containers": containers("n", "a")},
    ),
    "an item is deleted by a directive": (
        {"containers": containers("a", "b")},
        {"containers": [{"name": "a", "$patch": "delete"}]},
        {"containers": containers("b")},
    ),
    "a list is replaced by a directive": (
        {"containers": containers("a", "b")},
        {"containers": [{"$patch": "replace"}, {"name": "c", "image": "c:1"}]},
        {"containers": containers("c")},
    ),
    "a struct is replaced by a directive": (
        {"securityContext": {"runAsUser": 1, "fsGroup": 2}},
        {"securityContext": {"$patch": "replace", "runAsUser": 5}},
        {"securityContext": {"runAsUser": 5}},
    ),
    # What the order does not name stays before what it was before.
    "an order is set": (
        {"containers": containers("a", "b", "c")},
        {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "x"}]},
        {"containers": [{"name": "b", "image": "b:1"}, {"name": "c", "image": "c:1"}, {"name": "a", "image": "x"}]},
    ),
    "a struct keeps only some keys": (
        {"volumes": [{"name": "v", "emptyDir": {}}]},
        {"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]},
        {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
    ),
    "an atomic list is replaced": (
        {"tolerations": [{"key": "a"}]},
        {"tolerations": [{"key": "b"}]},
        {"tolerations": [{"key": "b"}]},
    ),
    "directives for what is not there": (
        {"containers": containers("a")},
        {"containers": [{"name": "a", "resources": {"$patch": "replace", "limits": {"cpu": "1"}}}]},
        {"containers": containers("a")},
    ),
    "values go from any list": (
        {"containers": [{"name": "a", "args": ["x", "y"]}]},
        {"containers": [{"name": "a", "$deleteFromPrimitiveList/args": ["x"]}]},
        {"containers": [{"name": "a", "args": ["y"]}]},
    ),
    "null deletes": ({"nodeName": "n", "hostname": "h"}, {"nodeName": None}, {"hostname": "h"}),
}


@pytest.mark.parametrize(("spec", "patch", "expected"), STRATEGIC.values(), ids=STRATEGIC.keys())
def test_strategic_merge_patch(spec: Any, patch: Any, expected: Any) -> None:
    before = copy.deepcopy(spec)
    assert apply_strategic_patch({"spec": spec}, {"spec": patch}, POD)["spec"] == expected
    assert spec == before


def test_primitives_merge_and_are_deleted_by_value() -> None:
    doc = {"metadata": {"finalizers": ["a", "b"]}}
    added = apply_strategic_patch(doc, {"metadata": {"finalizers": ["c"]}}, POD)
    assert sorted(added["metadata"]["finalizers"]) == ["a", "b", "c"]
    removed = apply_strategic_patch(doc, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}, POD)
    assert removed["metadata"]["finalizers"] == ["b"]


def test_fields_of_operations() -> None:
    text = b'[{"op":"add","path":"/a","value":1,"extra":2,"op":"add"},null,{"op":"remove","path":"/b","Path":"x"}]'
    assert field_problems(text) == [
        'json patch unknown field "[0].extra"',
        'json patch duplicate field "[0].op"',
        'json patch unknown field "[2].Path"',
    ]


@pytest.mark.parametrize("kind", ["move", "copy"])
def test_nothing_becomes_the_whole_document(kind: str) -> None:
    with pytest.raises(PatchError):
        apply_json_patch({"a": {}}, [{"op": kind, "path": "", "from": "/a"}])


@pytest.mark.parametrize(
    ("patch", "error", "message"),
    [
        ({"containers": [{"image": "x"}]}, PatchError, "map: map[image:x] does not contain declared merge key: name"),
        (
            {"containers": [{"name": "x", "$patch": "merge"}]},
            PatchError,
            "merging lists cannot yet be specified in the patch",
        ),
        ({"securityContext": {"$patch": "frob"}}, PatchError, "unknown patch type: frob in map: map[$patch:frob]"),
        ({"$setElementOrder/containers": "x"}, PatchError, "expected a []interface {}, but received a string"),
        ({"$setElementOrder/containers": ["a"]}, PatchError, "value for key 0 is not a map"),
        ({"$setElementOrder/containers": [{}]}, PatchError, "map: map[] does not contain declared merge key: name"),
        ({"$retainKeys": ["a"], "nodeName": "x"}, BadPatchError, "invalid patch format of retainKeys"),
    ],
)
def test_bad_strategic_patches(patch: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        apply_strategic_patch({"spec": {"containers": containers("a"), "securityContext": {}}}, {"spec": patch}, POD)
    assert str(caught.value) == message


# Kinds whose answer holds what defaults and allocators add to a patched object: not this room's business.
OTHERS_AT_WORK = {"patch-smp-bad", "patch-smp-endpointslices", "patch-smp-replicasets", "patch-smp-svc"}


@needs_shared
def test_recorded_patches() -> None:
    seen = 0
    for path in cases("patch/*"):
        live: dict[str, Any] = {}
        for step in steps(path):
            before = live.get(step.path)
            answer = step.answer
            if not isinstance(answer, dict) or answer.get("kind") in {None, "Status"} or step.setup:
                continue
            if step.method == "PATCH" and before is not None and path.stem not in OTHERS_AT_WORK:
                schema = schema_of(*split_api_version(before["apiVersion"]), before["kind"])
                match step.content_type:
                    case "application/strategic-merge-patch+json":
                        after = apply_strategic_patch(before, step.body or {}, schema)
                    case "application/merge-patch+json":
                        after = apply_merge_patch(before, step.body)
                    case _:
                        after = apply_json_patch(before, step.body)
                assert without_history(normalize(after, schema)) == without_history(answer), step
                seen += 1
            live[step.path if step.method != "POST" else f"{step.path}/{answer['metadata'].get('name')}"] = answer
    assert seen > 100


def without_history(obj: dict[str, Any]) -> dict[str, Any]:
    gone = {"managedFields", "resourceVersion", "generation"}
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key not in gone}}
