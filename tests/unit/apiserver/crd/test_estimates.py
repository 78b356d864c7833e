"""Estimated costs: what kube-apiserver v1.36 was measured to estimate, to the three digits its messages show."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tiphys.apiserver.crd.celtypes import cel_type
from tiphys.apiserver.crd.structural import structural
from tiphys.machinery.cel.checker import Checker
from tiphys.machinery.cel.cost import estimated_cost
from tiphys.machinery.cel.parser import parse


def text(most: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": most}


def array(items: dict[str, Any], most: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": items} | ({} if most is None else {"maxItems": most})


INTEGER = {"type": "integer"}
SCHEMA = {
    "type": "object",
    "properties": {
        "s": text(100),
        "t": text(30),
        "u": {"type": "string"},
        "l": array(text(20), 50),
        "lu": array(INTEGER),
        "m": {"type": "object", "maxProperties": 40, "additionalProperties": text(20)},
        "mu": {"type": "object", "additionalProperties": INTEGER},
        "i": INTEGER,
        "b": {"type": "boolean"},
        "d": {"type": "string", "format": "date-time"},
        "e": {"type": "string", "enum": ["aaa", "bbbbb"]},
        "o": {"type": "object", "properties": {"x": INTEGER}},
    },
}


@pytest.mark.parametrize(
    ("rule", "cost"),
    [
        ("true", 0),
        ("self.b && self.b", 4),
        ("self.i == 1", 2),
        ("self.i > 1", 3),
        ("has(self.o.x)", 2),
        ("self.s == self.t", 16),
        ("self.u == self.u", 314577),
        ("self.e == self.s", 5),
        ("self.d == self.d", 8),
        ("self.s.contains(self.t)", 484),
        ("self.s.matches('abcdefghijkl')", 125),
        ("self.s + self.t == 'a'", 57),
        ("self.l.all(x, true)", 153),
        ("self.l.exists(x, true)", 203),
        ("self.l.all(x, self.s == x)", 703),
        ("self.l.filter(x, true).size() > 1", 665),
        ("self.l.map(x, x) == self.l", 670),
        ("self.lu.all(x, x > 1)", 7864318),
        ("self.mu.all(k, true)", 1348170),
        ("self.m.all(k, self.m[k] == self.s)", 683),
        ("self.l.isSorted()", 452),
        ("self.s.split(',').all(x, x == self.s)", 2483),
        ("self.s.replace('a', 'bcd').contains(self.s)", 4984),
        ("isQuantity(self.s)", 42),
        ("sets.contains(self.l, ['a', 'b'])", 113),
        ("self.u.charAt(1) + 'a' == 'b'", math.inf),
    ],
)
def test_worst_cost(rule: str, cost: float) -> None:
    own, node, checker = cel_type(structural(SCHEMA)), parse(rule), Checker(rule)
    checker.type_of(node, {"self": own})
    assert not checker.problems
    assert estimated_cost(node, checker.types, {"self": own}) == pytest.approx(cost, rel=0.025)
