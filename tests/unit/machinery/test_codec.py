"""JSON and YAML as the server reads them, and what it says of mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared_data import needs_shared
from tests.unit.machinery.golden import cases, steps
from tiphys.api.schemas import schema_of
from tiphys.machinery.codec import decode_json, decode_yaml, encode_yaml, strict_message, strict_problems

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029\ufeff")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz-", min_size=1), inner, max_size=3),
    max_leaves=10,
)

SYNTAX = [
    (b'{"spec":', "unexpected end of JSON input"),
    (b"", "unexpected end of JSON input"),
    (b'"ab', "unexpected end of JSON input"),
    (b"nul", "unexpected end of JSON input"),
    (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b'{"a" 1}', "invalid character '1' after object key"),
    (b'{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
    (b"{}x", "invalid character 'x' after top-level value"),
    (b"{'a':1}", r"invalid character '\'' looking for beginning of object key string"),
    (b'{"a":trux}', "invalid character 'x' in literal true (expecting 'e')"),
    (b"not json", "invalid character 'o' in literal null (expecting 'u')"),
]


@pytest.mark.parametrize(("data", "message"), SYNTAX, ids=[str(data) for data, _ in SYNTAX])
def test_syntax_errors(data: bytes, message: str) -> None:
    with pytest.raises(ValueError) as error:
        decode_json(data)
    assert str(error.value) == message


YAML = [
    ("y", True),
    ("off", False),
    ('"y"', "y"),
    ("0644", 420),
    ("0x10", 16),
    ("1_000", 1000),
    ("1e3", 1000),
    ("1.50", 1.5),
    ("~", None),
    ("2001-01-01", "2001-01-01"),
    ("12:30:45", "12:30:45"),
    ("!!str 5", "5"),
    ("1.2.3", "1.2.3"),
    ("null x", "null x"),
]


@pytest.mark.parametrize(("text", "value"), YAML, ids=[text for text, _ in YAML])
def test_yaml_scalars(text: str, value: Any) -> None:
    found = decode_yaml(f"a: {text}").value["a"]
    assert found == value
    assert type(found) is type(value)


def test_yaml_keys_are_sorted_text_and_duplicates_reported() -> None:
    document = decode_yaml("b: 1\n5: x\na: 1\nb: 2\n")
    assert list(document.value.items()) == [("5", "x"), ("a", 1), ("b", 2)]
    assert document.duplicates == ['line 4: key "b" already set in map']


def test_yaml_merge_keys_and_anchors() -> None:
    assert decode_yaml("a: &x {b: 1, c: 1}\nd: {<<: *x, c: 2}").value["d"] == {"b": 1, "c": 2}


def test_yaml_bombs_and_loops_are_refused() -> None:
    levels = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    levels += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ValueError, match="excessive aliasing"):
        decode_yaml("\n".join(levels))
    with pytest.raises(ValueError, match="contains itself"):
        decode_yaml("a: &a [*a]")


def test_yaml_syntax_errors_name_the_line() -> None:
    with pytest.raises(ValueError, match=r"yaml: line 1: did not find expected ',' or '\]'"):
        decode_yaml("not: [yaml")


@given(VALUES)
def test_yaml_reads_back(value: Any) -> None:
    assert decode_yaml(encode_yaml(value)).value == value


@given(VALUES)
def test_json_is_yaml(value: Any) -> None:
    assert decode_yaml(json.dumps({"a": value})).value == {"a": value}


@needs_shared
def test_recorded_warnings_of_json_bodies() -> None:
    seen = 0
    for path in cases("strict/strict-*"):
        for step in steps(path):
            if step.method not in {"POST", "PUT"} or not isinstance(step.answer, dict):
                continue
            warnings = [w.removeprefix('299 - "').removesuffix('"').replace('\\"', '"') for w in step.warnings]
            ours = [w for w in warnings if w.startswith(("unknown field", "duplicate field"))]
            if not ours or step.content_type != "application/json":
                continue
            data = (step.body if isinstance(step.body, str) else json.dumps(step.body)).encode()
            value = decode_json(data)
            group, _, version = value["apiVersion"].rpartition("/")
            assert strict_problems(value, schema_of(group, version, value["kind"]), data) == ours, step
            seen += 1
    assert seen > 3


def test_a_strict_error_joins_its_problems() -> None:
    service = decode_yaml("kind: Service\nspec:\n  ports:\n  - port: 80\n    portt: 81\n    port: 82\n")
    problems = strict_problems(service.value, schema_of("", "v1", "Service"))
    assert strict_message(problems, service.duplicates) == (
        'strict decoding error: yaml: unmarshal errors:\n  line 6: key "port" already set in map, '
        'unknown field "spec.ports[0].portt"'
    )


@pytest.mark.parametrize("indent", [None, 2], ids=["compact", "pretty"])
def test_duplicates_in_maps_count_too(indent: int | None) -> None:
    data = b'{"metadata": {"labels": {"a": "1", "a": "2"}}}' if indent else b'{"metadata":{"labels":{"a":"1","a":"2"}}}'
    problems = strict_problems(decode_json(data), schema_of("", "v1", "ConfigMap"), data)
    assert problems == ['duplicate field "metadata.labels.a"']
