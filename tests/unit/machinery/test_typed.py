"""Comparing, merging and taking away by schema: laws that hold for any two objects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiphys.api.schemas import schema_of
from tiphys.machinery.fieldset import intersection, union
from tiphys.machinery.normalize import normalize
from tiphys.machinery.patch.integers import with_wrapped_integers
from tiphys.machinery.patch.typed import compare, field_set, merge, problems, remove, with_named_parents

POD = schema_of("", "v1", "Pod")

NAMES = st.sampled_from(["a", "b", "c"])
TEXTS = st.sampled_from(["x", "y", ""])
LABELS = st.dictionaries(NAMES, TEXTS, max_size=3)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def keyed(key: str, items: st.SearchStrategy[dict[str, Any]], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists of objects whose keys differ."""
    return st.dictionaries(keys, items, max_size=3).map(lambda found: [{key: k, **v} for k, v in found.items()])


CONTAINERS = keyed(
    "name",
    optional(
        image=TEXTS,
        args=st.lists(TEXTS, max_size=2),
        env=keyed("name", optional(value=TEXTS), NAMES),
        ports=keyed("containerPort", optional(name=TEXTS), st.integers(1, 3)),
        resources=optional(limits=st.dictionaries(NAMES, st.sampled_from(["1", "500m"]), max_size=2)),
    ),
    NAMES,
)
PODS = optional(
    metadata=optional(labels=LABELS, finalizers=st.lists(NAMES, unique=True, max_size=2)),
    spec=optional(
        containers=CONTAINERS,
        nodeSelector=LABELS,
        hostNetwork=st.booleans(),
        securityContext=optional(runAsUser=st.integers(0, 2)),
        tolerations=st.lists(optional(key=TEXTS), max_size=2),
    ),
)


@given(PODS)
def test_the_normal_form_is_its_own(pod: Any) -> None:
    normal = normalize(pod, POD)
    assert normalize(normal, POD) == normal
    assert not problems(pod, POD)


@given(PODS, PODS)
def test_what_is_added_one_way_is_removed_the_other(old: Any, new: Any) -> None:
    there, back = compare(old, new, POD), compare(new, old, POD)
    assert there.added == back.removed
    assert there.removed == back.added
    assert there.modified == back.modified
    assert compare(old, old, POD).empty


@given(PODS, PODS)
def test_a_merge_has_all_that_was_applied(live: Any, applied: Any) -> None:
    merged = merge(live, applied, POD)
    ours = field_set(applied, POD)
    found = compare(merged, merge(merged, applied, POD), POD)
    assert not intersection(union(found.added, found.modified), ours)
    assert not compare(live, merged, POD).removed


@given(PODS)
def test_an_object_without_its_fields_is_empty(pod: Any) -> None:
    every = with_named_parents(field_set(pod, POD), POD)
    assert field_set(remove(pod, every, POD), POD) == {}


LIVE = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("applied", "merged"),
    [
        ([], ["a", "b", "c", "d"]),
        (["c", "a"], ["b", "c", "d", "a"]),
        (["x", "b"], ["a", "x", "b", "c", "d"]),
        (["d", "x"], ["a", "b", "c", "d", "x"]),
    ],
    ids=["none", "turned round", "new before", "new after"],
)
def test_the_order_of_a_merged_list(applied: list[str], merged: list[str]) -> None:
    def pod(names: list[str]) -> Any:
        return {"spec": {"containers": [{"name": name} for name in names]}}

    assert merge(pod(LIVE), pod(applied), POD) == pod(merged)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"foo": 1}, ".spec.foo: field not declared in schema"),
        ({"hostNetwork": "x"}, ".spec.hostNetwork: expected boolean, got &{x}"),
        ({"priority": "x"}, ".spec.priority: expected numeric (int or float), got string"),
        ({"containers": {}}, ".spec.containers: expected list, got &{map[]}"),
        ({"containers": [{"name": "a"}, {"name": "a"}]}, '.spec.containers: duplicate entries for key [name="a"]'),
        (
            {"containers": [None]},
            ".spec.containers: element 0: associative list with keys may not have a null element",
        ),
        ({"containers": [{"image": "a"}, {"image": "b"}]}, '.spec.containers: duplicate entries for key [name=""]'),
    ],
    ids=str,
)
def test_what_cannot_be_applied(spec: Any, problem: str) -> None:
    assert problems({"spec": spec}, POD) == [problem]


def test_a_key_left_out_is_the_zero_of_its_type() -> None:
    assert problems({"spec": {"containers": [{"image": "a"}, {"name": "b"}]}}, POD) == []


def test_what_is_emptied_by_removal() -> None:
    obj = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a"}]}}
    gone: dict[str, Any] = {"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {'k:{"name":"a"}': {}}}}
    assert remove(obj, gone, POD) == {"metadata": {"labels": {}}, "spec": {}}


@pytest.mark.parametrize(
    ("number", "held"), [(2**40 + 3, 3), (3_000_000_000, -1_294_967_296), (2**64, 0), (1e30, 0), (2.0, 2), (1.5, 1.5)]
)
def test_an_applied_number_keeps_the_bits_that_fit(number: float, held: float) -> None:
    assert with_wrapped_integers({"spec": {"priority": number}}, POD) == {"spec": {"priority": held}}


def test_a_long_number_too_large_becomes_the_smallest() -> None:
    spec = {"activeDeadlineSeconds": 2**63, "hostNetwork": True}
    held = {"activeDeadlineSeconds": -(2**63), "hostNetwork": True}
    assert with_wrapped_integers({"spec": spec}, POD) == {"spec": held}
