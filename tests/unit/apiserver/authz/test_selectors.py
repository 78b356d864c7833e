"""Selectors of access reviews: what is refused, what is left out, and what reaches the authorizers."""

from __future__ import annotations

from typing import Any

import pytest

from tiphys.apiserver.authz.selectors import selector_errors, selectors_of
from tiphys.machinery.field import Path

NEITHER = "Required value: when %s is specified, requirements or rawSelector is required"
NO_VALUES = "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
IGNORED = ["spec.resourceAttributes.fieldSelector ignored due to parse error"]
AT = Path("spec").child("resourceAttributes")
FIELDS, LABELS = f"{AT}.fieldSelector", f"{AT}.labelSelector"


@pytest.mark.parametrize(
    ("name", "selector", "told"),
    [
        ("fieldSelector", {"rawSelector": "a=b"}, []),
        ("fieldSelector", {}, [f"{FIELDS}.requirements: {NEITHER % FIELDS}"]),
        ("fieldSelector", {"requirements": [{"key": "", "operator": "In"}]}, [
            f"{FIELDS}.requirements[0].key: Required value: must be specified",
            f"{FIELDS}.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ]),
        ("labelSelector", {"requirements": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, [
            f"{LABELS}.requirements[0].values: {NO_VALUES}",
        ]),
        ("labelSelector", {"rawSelector": "a", "requirements": [{"key": "x", "operator": "In", "values": ["a"]}]}, [
            f'{LABELS}.rawSelector: Invalid value: "a": may not specified at the same time as requirements',
        ]),
    ],
)  # fmt: skip
def test_errors(name: str, selector: dict[str, Any], told: list[str]) -> None:
    assert [str(error) for error in selector_errors({name: selector}, AT)] == told


@pytest.mark.parametrize(
    ("fields", "text", "problems"),
    [
        ({"rawSelector": "spec.nodeName=n,a!=b"}, "spec.nodeName=n,a!=b", []),
        ({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]}, "spec.nodeName=n", []),
        ({"requirements": [{"key": "k", "operator": "NotIn", "values": ["n"]}]}, "k!=n", []),
        ({"requirements": [{"key": "k", "operator": "In", "values": ["n", "m"]}]}, "", IGNORED),
        ({"requirements": [{"key": "k", "operator": "Foo", "values": ["n"]}]}, "", IGNORED),
        ({"rawSelector": "a in (b"}, "", IGNORED),
    ],
)  # fmt: skip
def test_fields(fields: dict[str, Any], text: str, problems: list[str]) -> None:
    assert selectors_of({"fieldSelector": fields}, AT) == (text, "", problems)


def test_labels() -> None:
    requirements = [{"key": "a", "operator": "In", "values": ["x", "y"]}, {"key": "b", "operator": "DoesNotExist"}]
    assert selectors_of({"labelSelector": {"requirements": requirements}}, AT) == ("", "a in (x,y),!b", [])
