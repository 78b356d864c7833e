"""Selectors in access reviews: `fieldSelector` and `labelSelector` of resourceAttributes, checked and written as text.

A part that cannot be understood is left out, which never allows more, and said in the review's evaluationError.
https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/subject-access-review-v1/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.selectors import (
    FieldRequirement,
    FieldSelector,
    LabelSelector,
    Requirement,
    checked,
    label_value_errors,
    qualified_name_errors,
)

Object = Mapping[str, Any]
RAW_AND_MORE: Final = "may not specified at the same time as requirements"
NO_VALUES: Final = "must be specified when `operator` is 'In' or 'NotIn'"
VALUES: Final = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
_LABEL_OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def selector_errors(attributes: Object, path: Path) -> list[FieldError]:
    """What is wrong with the selectors of `resourceAttributes`, which is at `path`."""
    errors: list[FieldError] = []
    for name, check in (("fieldSelector", _field_errors), ("labelSelector", _label_errors)):
        selector, at = attributes.get(name), path.child(name)
        if selector is None:
            continue
        raw, requirements = selector.get("rawSelector") or "", selector.get("requirements") or ()
        if raw and requirements:
            errors.append(field.invalid(at.child("rawSelector"), raw, RAW_AND_MORE))
        if not raw and not requirements:
            message = f"when {at} is specified, requirements or rawSelector is required"
            errors.append(field.required(at.child("requirements"), message))
        for index, one in enumerate(requirements):
            errors += check(one, at.child("requirements").index(index))
    return errors


def _value_errors(requirement: Object, path: Path) -> Iterator[FieldError]:
    operator, values = requirement.get("operator") or "", requirement.get("values") or ()
    if operator in ("In", "NotIn") and not values:
        yield field.required(path.child("values"), NO_VALUES)
    elif operator in ("Exists", "DoesNotExist") and values:
        yield field.forbidden(path.child("values"), VALUES)


def _field_errors(requirement: Object, path: Path) -> Iterator[FieldError]:
    # Operators are not checked: a server may know more of them than the one that is asked.
    if not requirement.get("key"):
        yield field.required(path.child("key"), "must be specified")
    yield from _value_errors(requirement, path)


def _label_errors(requirement: Object, path: Path) -> Iterator[FieldError]:
    yield from _value_errors(requirement, path)
    key = requirement.get("key") or ""
    for problem in qualified_name_errors(key):
        yield field.invalid(path.child("key"), key, problem)
    for index, value in enumerate(requirement.get("values") or ()):
        for problem in label_value_errors(value):
            yield field.invalid(path.child("values").index(index), value, problem)


def selectors_of(attributes: Object, path: Path) -> tuple[str, str, list[str]]:
    """The field selector, the label selector, both as text, and what could not be understood."""
    problems: list[str] = []

    def read(name: str, make: Any) -> str:
        selector = attributes.get(name)
        if selector is None:
            return ""
        text, whole = make(selector.get("rawSelector") or "", selector.get("requirements") or ())
        if not whole:
            problems.append(f"{path.child(name)} {'partially ' if text else ''}ignored due to parse error")
        return str(text)

    fields, labels = read("fieldSelector", _fields), read("labelSelector", _labels)
    return fields, labels, problems


def _fields(raw: str, requirements: Sequence[Object]) -> tuple[str, bool]:
    if raw:
        try:
            return str(FieldSelector.parse(raw)), True
        except ValueError:
            return "", False
    found = []
    for one in requirements:
        values: Sequence[str] = one.get("values") or ()
        sign = {"In": "=", "NotIn": "!="}.get(one.get("operator") or "")
        if sign is not None and len(values) == 1:
            found.append(FieldRequirement(one.get("key") or "", sign, values[0]))
    return str(FieldSelector(tuple(found))), len(found) == len(requirements)


def _labels(raw: str, requirements: Sequence[Object]) -> tuple[str, bool]:
    if raw:
        try:
            return str(LabelSelector.parse(raw)), True
        except ValueError:
            return "", False
    found = []
    for one in requirements:
        operator = _LABEL_OPERATORS.get(one.get("operator") or "")
        if operator is None:
            continue
        try:
            found.append(checked(Requirement(one.get("key") or "", operator, tuple(one.get("values") or ()))))
        except ValueError:
            continue
    return str(LabelSelector(tuple(found))), len(found) == len(requirements)
