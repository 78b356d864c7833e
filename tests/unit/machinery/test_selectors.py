"""Label and field selectors."""

from __future__ import annotations

import pytest

from tiphys.machinery.selectors import FieldSelector, LabelSelector, of_node_selector

MATCHES = [
    ("", {"a": "b"}, True),
    ("a=b", {"a": "b"}, True),
    ("a==b", {"a": "c"}, False),
    ("a=", {"a": ""}, True),
    ("a!=b", {}, True),
    ("a!=b", {"a": "b"}, False),
    ("a", {"a": ""}, True),
    ("!a", {"b": ""}, True),
    ("a in (x, y)", {"a": "y"}, True),
    ("a notin (x,y)", {"a": "x"}, False),
    ("a notin (x,y)", {}, True),
    ("a>5", {"a": "6"}, True),
    ("a<5", {"a": "x"}, False),
    ("a=b,c in (d),!e", {"a": "b", "c": "d"}, True),
    ("x.io/a in (b,)", {"x.io/a": ""}, True),
]


@pytest.mark.parametrize(("text", "labels", "matches"), MATCHES, ids=[f"{t}-{m}" for t, _, m in MATCHES])
def test_label_selectors(text: str, labels: dict[str, str], matches: bool) -> None:
    selector = LabelSelector.parse(text)
    assert selector.matches(labels) is matches
    assert LabelSelector.parse(str(selector)).matches(labels) is matches


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a in", "unable to parse requirement: found '' expected: '('"),
        ("a,", "found '', expected: identifier after ','"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
        ("a>x", "the value must be an integer"),
        ("a=-b", "a valid label must be an empty string or consist of alphanumeric characters"),
        ("-a=b", "name part must consist of alphanumeric characters"),
    ],
)
def test_bad_label_selectors(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as error:
        LabelSelector.parse(text)
    assert problem in str(error.value)


def test_a_selector_of_an_object_is_all_its_parts() -> None:
    selector = LabelSelector.of_dict(
        {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]}
    )
    assert selector.matches({"a": "b", "c": "e"})
    assert not selector.matches({"a": "b"})
    assert str(selector) == "a=b,c in (d,e)"


def test_none_matches_nothing_and_empty_everything() -> None:
    assert not LabelSelector.of_dict(None).matches({})
    assert LabelSelector.of_dict({}).matches({})
    assert LabelSelector.of_dict({}).empty


def test_only_node_selectors_compare_numbers() -> None:
    expression = {"key": "n", "operator": "Gt", "values": ["5"]}
    assert of_node_selector([expression]).matches({"n": "6"})
    with pytest.raises(ValueError, match='"Gt" is not a valid label selector operator'):
        LabelSelector.of_dict({"matchExpressions": [expression]})


@pytest.mark.parametrize(
    ("text", "fields", "matches"),
    [
        ("metadata.name=x", {"metadata.name": "x"}, True),
        ("metadata.name!=x", {"metadata.name": "x"}, False),
        ("a==b,c=", {"a": "b"}, True),
        (r"a=b\,c", {"a": "b,c"}, True),
        (r"a=b\\c\=", {"a": "b\\c="}, True),
    ],
)
def test_field_selectors(text: str, fields: dict[str, str], matches: bool) -> None:
    selector = FieldSelector.parse(text)
    assert selector.matches(fields) is matches
    assert FieldSelector.parse(str(selector)).matches(fields) is matches


@pytest.mark.parametrize("text", ["a", "a=b=c", r"a=\b"])
def test_bad_field_selectors(text: str) -> None:
    with pytest.raises(ValueError, match="invalid"):
        FieldSelector.parse(text)
