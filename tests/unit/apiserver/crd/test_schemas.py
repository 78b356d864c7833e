"""Structural schemas: pruning, defaults, validation, rules, types of fields."""

from __future__ import annotations

from typing import Any

import pytest

from tiphys.apiserver.crd.celtypes import escaped
from tiphys.apiserver.crd.definition import declared_errors
from tiphys.apiserver.crd.jsonpath import find
from tiphys.apiserver.crd.rules import compile_rules, rule_errors
from tiphys.apiserver.crd.structural import pruned, resource_schema, set_defaults, structural
from tiphys.apiserver.crd.validation import NEW, list_errors, schema_errors
from tiphys.machinery.field import Path
from tiphys.machinery.normalize import normalize

ITEMS = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "n": {"type": "integer", "default": 7, "maximum": 10}},
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "s": {"type": "string", "pattern": "^[a-z]+$", "default": "abc"},
                "m": {"type": "object", "additionalProperties": {"type": "integer"}},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "mixed": {"x-kubernetes-int-or-string": True},
                "items": ITEMS,
                "note": {"type": "string", "nullable": True},
            },
        }
    },
}


def texts(errors: Any) -> list[str]:
    return [str(error) for error in errors]


def test_unknown_fields_are_pruned() -> None:
    obj = {"kind": "A", "metadata": {"x": 1}, "spec": {"s": "a", "t": 1, "any": {"t": 1}, "items": [{"q": 1}]}, "u": 1}
    assert pruned(obj, structural(SCHEMA), resource=True) == {
        "kind": "A",
        "metadata": {"x": 1},
        "spec": {"s": "a", "any": {"t": 1}, "items": [{}]},
    }


def test_defaults_reach_into_lists() -> None:
    obj: dict[str, Any] = {"spec": {"s": None, "items": [{"name": "a"}, {"name": "b", "n": 1}], "note": None}}
    set_defaults(obj, structural(SCHEMA))
    assert obj == {"spec": {"s": "abc", "items": [{"name": "a", "n": 7}, {"name": "b", "n": 1}], "note": None}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"s": "A"}, ["spec.s: Invalid value: \"A\": spec.s in body should match '^[a-z]+$'"]),
        ({"s": 1}, ['spec.s: Invalid value: "integer": spec.s in body must be of type string: "integer"']),
        ({"m": {"a": "x"}}, ['spec.m.a: Invalid value: "string": spec.m.a in body must be of type integer: "string"']),
        ({"mixed": "50%"}, []),
        (
            {"mixed": True},
            ['spec.mixed: Invalid value: "boolean": spec.mixed in body must be of type integer,string: "boolean"'],
        ),
        ({"items": [{}]}, ["spec.items[0].name: Required value"]),
        ({"note": None}, []),
    ],
)
def test_validation(spec: Any, expected: list[str]) -> None:
    assert texts(schema_errors({"spec": spec}, SCHEMA)) == expected


def test_what_has_not_changed_passes() -> None:
    old = {"spec": {"s": "A", "items": [{"name": "a", "n": 99}, {"name": "b"}]}}
    new = {"spec": {"s": "A", "items": [{"name": "b", "n": 50}, {"name": "a", "n": 99}]}}
    errors = texts(schema_errors(new, SCHEMA, old=old))
    assert errors == ["spec.items[0].n: Invalid value: 50: spec.items[0].n in body should be less than or equal to 10"]
    assert len(schema_errors(new, SCHEMA)) == 3


def test_keys_come_once() -> None:
    obj = {"spec": {"items": [{"name": "a"}, {"name": "a"}]}}
    assert texts(list_errors(obj, SCHEMA)) == ['spec.items[1]: Duplicate value: {"name":"a"}']


RULED = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.low <= self.high", "fieldPath": ".low", "reason": "FieldValueForbidden"},
                {"rule": "self.low >= 0", "messageExpression": "'low is ' + string(self.low)"},
            ],
            "properties": {
                "low": {"type": "integer"},
                "high": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "up"}]},
                "a-b": {"type": "number", "x-kubernetes-validations": [{"rule": "self < 1.5"}]},
            },
        }
    },
}


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ({"low": 1, "high": 2}, None, []),
        ({"low": 3, "high": 2}, None, ["spec.low: Forbidden: failed rule: self.low <= self.high"]),
        ({"low": -1, "high": 2}, None, ["spec: Invalid value: low is -1"]),
        ({"low": 1, "high": 2}, {"low": 1, "high": 3}, ["spec.high: Invalid value: 2: up"]),
        ({"low": 3, "high": 2}, {"low": 3, "high": 2}, []),  # nothing changed: the rules are not asked
        ({"high": 2}, None, 2),
        ({"low": 0, "high": 2, "a-b": 1}, None, []),
        ({"low": 0, "high": 2, "a-b": 2}, None, ["spec.a-b: Invalid value: 2: failed rule: self < 1.5"]),
    ],
)
def test_rules(new: Any, old: Any, expected: list[str] | int) -> None:
    ruled = compile_rules(structural(RULED), resource=True)
    before = NEW if old is None else {"spec": old}
    found = texts(rule_errors(ruled, {"spec": new}, before))
    if isinstance(expected, int):
        assert len(found) == expected
        assert "no such key: low evaluating rule: self.low <= self.high" in found[0]
    else:
        assert found == expected


def test_rules_are_checked_with_the_definition() -> None:
    schema = {
        "type": "object",
        "properties": {"s": {"type": "string", "x-kubernetes-validations": [{"rule": "self > 1"}]}},
    }
    errors = declared_errors([{"name": "v1", "schema": {"openAPIV3Schema": schema}}], Path("spec"))
    assert errors[0].field == ("spec.validation.openAPIV3Schema.properties[s].x-kubernetes-validations[0].rule")
    assert errors[0].detail.startswith("compilation failed: ERROR: <input>:1:6: found no matching overload for '_>_'")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "must be object"),
        ({"type": "object", "properties": {"a": {}}}, "must not be empty for specified object fields"),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, "must be specified"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
            "must be a valid regular expression",
        ),
        ({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}, "must be of type integer"),
    ],
)
def test_schemas_must_be_structural(schema: Any, expected: str) -> None:
    errors = declared_errors([{"name": "v1", "schema": {"openAPIV3Schema": schema}}], Path("spec"))
    assert any(expected in str(error) for error in errors), texts(errors)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            {"type": "object", "x-kubernetes-map-type": "x"},
            'x-kubernetes-map-type: Unsupported value: "x": supported values: "atomic", "granular"',
        ),
        (
            {"type": "object", "x-kubernetes-preserve-unknown-fields": False},
            "x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"},
            (
                "items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with "
                "x-kubernetes-list-type=set"
            ),
        ),
        (
            {"type": "object", "x-kubernetes-validations": [{"rule": "true", "fieldPath": ".no"}]},
            'x-kubernetes-validations[0].fieldPath: Invalid value: ".no": must be a valid path',
        ),
        (
            {"type": "string", "default": 1},
            'default: Invalid value: "integer":  in body must be of type string: "integer"',
        ),
        (
            {"type": "object", "default": {"z": 1}},
            'default: Invalid value: {"z":1}: must not have unknown fields',
        ),
        (
            {"type": "string", "pattern": "("},
            (
                'pattern: Invalid value: "(": must be a valid regular expression, but isn\'t: error parsing regexp: '
                "missing closing ): `(`"
            ),
        ),
    ],
    ids=lambda one: next(reversed(one)) if isinstance(one, dict) else "",
)
def test_words_of_a_schema(node: dict[str, Any], expected: str) -> None:
    schema = {"type": "object", "properties": {"p": node}}
    errors = declared_errors([{"schema": {"openAPIV3Schema": schema}}], Path("spec"))
    assert [str(one) for one in errors] == [f"spec.validation.openAPIV3Schema.properties[p].{expected}"]


def test_numbers_that_are_whole_and_nulls() -> None:
    schema = structural({"type": "object", "properties": {"n": {"type": "number"}, "o": {"type": "object"}}})
    assert repr(pruned({"n": 1.0, "o": None}, schema)) == "{'n': 1}"


def test_normal_form_keeps_metadata_proper() -> None:
    schema = resource_schema(structural(SCHEMA), "g.example.com", "v1", "A")
    obj = {"kind": "A", "metadata": {"name": "x", "bogus": 1, "labels": {"b": "1", "a": "2"}}, "spec": {"z": 1}}
    assert normalize(obj, schema) == {
        "kind": "A",
        "metadata": {"name": "x", "labels": {"a": "2", "b": "1"}},
        "spec": {},
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".spec.a", [1]),
        (".spec.l[0]", ["p"]),
        (".spec.l[-1]", ["q"]),
        (".spec.l[*]", ["p", "q"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".metadata.labels['a.b/c']", ["d"]),
        (".metadata.labels.a\\.b/c", ["d"]),
        (".nope.x", []),
    ],
)
def test_json_path(path: str, expected: list[Any]) -> None:
    obj = {
        "spec": {"a": 1, "l": ["p", "q"]},
        "status": {"conditions": [{"type": "X", "status": "?"}, {"type": "Ready", "status": "True"}]},
        "metadata": {"labels": {"a.b/c": "d"}},
    }
    assert find(obj, path) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a-b", "a__dash__b"), ("namespace", "__namespace__"), ("a.b/c", "a__dot__b__slash__c"), ("1a", None)],
)
def test_names_of_fields(name: str, expected: str | None) -> None:
    assert escaped(name) == expected
