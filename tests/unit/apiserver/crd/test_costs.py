"""Rules that may cost too much are refused when their definition is written, with a hint what would help."""

from __future__ import annotations

from typing import Any

from tiphys.apiserver.crd.costs import CONTRIBUTED, HINT
from tiphys.apiserver.crd.definition import schema_errors_of
from tiphys.apiserver.crd.rules import compile_rules, rule_errors
from tiphys.apiserver.crd.structural import structural
from tiphys.machinery.field import Path

RULES = "x-kubernetes-validations"
PAIRS = "self.l.all(x, self.l.exists(y, y == x))"


def errors_of(spec: dict[str, Any]) -> list[tuple[str, str]]:
    schema = {"type": "object", "properties": {"spec": {"type": "object", **spec}}}
    return [(error.field, error.body) for error in schema_errors_of(schema, Path())]


def array(items: dict[str, Any], **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def exceeds(what: str, factor: str) -> str:
    return f"Forbidden: estimated {what} cost exceeds budget by factor of {factor} {HINT}"


def test_one_rule() -> None:
    items = array({"type": "string", "maxLength": 10}, maxItems=2000)
    found = errors_of({"properties": {"l": items}, RULES: [{"rule": PAIRS}]})
    assert found == [("properties[spec].x-kubernetes-validations[0].rule", exceeds("rule", "4.0x"))]


def test_a_message() -> None:
    items = array({"type": "string", "maxLength": 10}, maxItems=2000)
    found = errors_of(
        {"properties": {"l": items}, RULES: [{"rule": "true", "messageExpression": f"{PAIRS} ? 'a' : 'b'"}]}
    )
    assert [text for _, text in found] == [exceeds("messageExpression", "4.0x")]


def test_all_together() -> None:
    items = array({"type": "string", "maxLength": 10})
    found = errors_of({"properties": {"l": items}, RULES: [{"rule": PAIRS}, {"rule": "self.l.size() > 1"}]})
    total = (
        "Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by "
        f"factor of more than 100x {HINT}"
    )
    assert [text for _, text in found] == [exceeds("rule", "more than 100x"), f"Forbidden: {CONTRIBUTED}", total]


def test_a_rule_counts_for_every_value_of_its_schema() -> None:
    inner = {"type": "integer", RULES: [{"rule": "self > 1"}]}
    assert errors_of({"properties": {"l": array(array(inner, maxItems=100), maxItems=10000)}}) == []
    found = errors_of({"properties": {"l": array(array(inner, maxItems=1000), maxItems=10000)}})
    assert [text for _, text in found] == [exceeds("rule", "2.0x")]
    # Where no limit is set, as often as a request has room for it.
    assert errors_of({"properties": {"l": array(array(inner))}}) == []


def test_from_how_many_items_on_a_rule_costs_too_much() -> None:
    rule, items = "self.all(x, self.all(y, true))", 577  # as upstream
    schema = array({"type": "string", "maxLength": 2}, **{RULES: [{"rule": rule}]})
    ruled = compile_rules(structural(schema))
    assert rule_errors(ruled, ["a"] * (items - 2)) == []
    found = rule_errors(ruled, ["a"] * items)
    why = "no further validation rules will be run due to call cost exceeds limit for rule"
    assert [error.detail for error in found] == [f"'operation cancelled: actual cost limit exceeded': {why}: {rule}"]
