"""Status errors: words, codes, and the class a client gets."""

from __future__ import annotations

import pytest

from tests.shared_data import needs_shared
from tests.unit.machinery.golden import cases, steps
from tiphys.machinery import errors, field
from tiphys.machinery.field import Path
from tiphys.machinery.meta import GroupKind, GroupResource

DEPLOYMENTS = GroupResource("apps", "deployments")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.not_found(DEPLOYMENTS, "d"), 404, 'deployments.apps "d" not found'),
        (errors.already_exists(GroupResource("", "pods"), "p"), 409, 'pods "p" already exists'),
        (errors.forbidden(DEPLOYMENTS, "", "no"), 403, "deployments.apps is forbidden: no"),
        (errors.expired("too old"), 410, "too old"),
        (errors.internal_error("x"), 500, "Internal error occurred: x"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_words(error: errors.StatusError, code: int, message: str) -> None:
    assert (error.code, error.message) == (code, message)
    assert type(errors.StatusError.from_status(error.status)) is type(error)


def test_invalid_names_every_field_once() -> None:
    path = Path("spec").child("containers").index(0)
    problems = [
        field.required(path.child("name")),
        field.invalid(path.child("image"), "", "no"),
        field.required(path.child("name")),
    ]
    error = errors.invalid(GroupKind("", "Pod"), "p", problems)
    assert error.message == (
        'Pod "p" is invalid: [spec.containers[0].name: Required value, spec.containers[0].image: Invalid value: "": no]'
    )
    assert error.details["causes"][1] == {
        "reason": "FieldValueInvalid",
        "message": 'Invalid value: "": no',
        "field": "spec.containers[0].image",
    }


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (field.not_supported(Path("a"), "x", ["A", "B"]), 'a: Unsupported value: "x": supported values: "A", "B"'),
        (field.too_long(Path("a"), "x", 3), "a: Too long: may not be more than 3 bytes"),
        (field.too_many(Path("a"), 3, 2), "a: Too many: 3: must have at most 2 items"),
        (field.duplicate(Path("a").key("k"), "x"), 'a[k]: Duplicate value: "x"'),
        (field.forbidden(Path("a"), "no"), "a: Forbidden: no"),
        (field.immutable(Path("a"), {"b": 1}), 'a: Invalid value: {"b":1}: field is immutable'),
        (field.invalid(Path("a"), 'q"\n\x01', "no"), r'a: Invalid value: "q\"\n\x01": no'),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_field_errors(problem: field.FieldError, text: str) -> None:
    assert str(problem) == text


@needs_shared
def test_recorded_answers_are_made_again_from_their_parts() -> None:
    made = 0
    for path in cases("*/*"):
        for step in steps(path):
            if not isinstance(step.answer, dict) or step.answer.get("reason") not in {"NotFound", "AlreadyExists"}:
                continue
            details = step.answer.get("details") or {}
            resource = GroupResource(details.get("group", ""), details.get("kind", ""))
            make = errors.not_found if step.answer["reason"] == "NotFound" else errors.already_exists
            if "retryAfterSeconds" in details or "could not find" in step.answer["message"] or not details.get("name"):
                continue
            if step.answer["message"] == make(resource, details["name"]).message:
                assert make(resource, details["name"]).status == step.answer
                made += 1
    assert made > 100
