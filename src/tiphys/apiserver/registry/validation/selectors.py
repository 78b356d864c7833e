"""Label selectors, node selectors and scope selectors inside objects.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.validation.meta import validate_label_name, validate_labels
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

SET_OPERATORS: Final = ("In", "NotIn")
EXISTENCE_OPERATORS: Final = ("Exists", "DoesNotExist")
ORDER_OPERATORS: Final = ("Gt", "Lt")


def validate_label_selector(
    selector: Mapping[str, Any] | None, path: Path, *, allow_invalid_values: bool = False
) -> list[FieldError]:
    """Errors of a metav1.LabelSelector; None is valid."""
    if not selector:
        return []
    errors: list[FieldError] = []
    if labels := selector.get("matchLabels"):
        errors += validate_labels(labels, path.child("matchLabels"))
    for index, expression in enumerate(selector.get("matchExpressions") or ()):
        errors += _requirement_errors(
            expression, path.child("matchExpressions").index(index), allow_invalid_values=allow_invalid_values
        )
    return errors


def _requirement_errors(
    expression: Mapping[str, Any], path: Path, *, allow_invalid_values: bool = False
) -> list[FieldError]:
    errors: list[FieldError] = []
    operator, values = expression.get("operator", ""), expression.get("values") or ()
    if operator in SET_OPERATORS:
        if not values:
            errors.append(field.required(path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
    elif operator in EXISTENCE_OPERATORS:
        if values:
            errors.append(
                field.forbidden(
                    path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                )
            )
    else:
        errors.append(field.invalid(path.child("operator"), operator, "not a valid selector operator"))
    errors += validate_label_name(expression.get("key", ""), path.child("key"))
    if not allow_invalid_values:
        for index, value in enumerate(values):
            where = path.child("values").index(index)
            errors += [field.invalid(where, value, message) for message in formats.label_value(value)]
    return errors


def selector_is_empty(selector: Mapping[str, Any] | None) -> bool:
    return not selector or not (selector.get("matchLabels") or selector.get("matchExpressions"))


def selector_matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool | None:
    """Whether a selector selects `labels`; None when the selector itself is invalid."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if formats.qualified_name(key) or formats.label_value(value):
            return None
    if any(_requirement_errors(one, Path("x")) for one in selector.get("matchExpressions") or ()):
        return None
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_requirement_matches(one, labels) for one in selector.get("matchExpressions") or ())


def _requirement_matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression.get("key", ""))
    values: Sequence[str] = expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


def validate_node_selector(selector: Mapping[str, Any], path: Path, *, label_values: bool = True) -> list[FieldError]:
    """Errors of a core/v1 NodeSelector: terms of expressions over labels and fields."""
    terms = selector.get("nodeSelectorTerms") or ()
    if not terms:
        return [field.required(path.child("nodeSelectorTerms"), "must have at least one node selector term")]
    errors: list[FieldError] = []
    for index, term in enumerate(terms):
        where = path.child("nodeSelectorTerms").index(index)
        errors += validate_node_selector_term(term, where, label_values=label_values)
    return errors


def validate_node_selector_term(term: Mapping[str, Any], path: Path, *, label_values: bool = True) -> list[FieldError]:
    """`label_values`: the values of expressions must be possible as values of labels."""
    errors: list[FieldError] = []
    for index, expression in enumerate(term.get("matchExpressions") or ()):
        where = path.child("matchExpressions").index(index)
        errors += _node_requirement_errors(expression, where, label_values=label_values)
    for index, expression in enumerate(term.get("matchFields") or ()):
        errors += _node_field_errors(expression, path.child("matchFields").index(index))
    return errors


def _node_requirement_errors(
    expression: Mapping[str, Any], path: Path, *, label_values: bool = True
) -> list[FieldError]:
    errors: list[FieldError] = []
    operator, values = expression.get("operator", ""), expression.get("values") or ()
    if operator in SET_OPERATORS:
        if not values:
            errors.append(field.required(path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
    elif operator in EXISTENCE_OPERATORS:
        if values:
            errors.append(
                field.forbidden(
                    path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                )
            )
    elif operator in ORDER_OPERATORS:
        if len(values) != 1:
            errors.append(
                field.required(path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
            )
    else:
        errors.append(field.invalid(path.child("operator"), operator, "not a valid selector operator"))
    errors += validate_label_name(expression.get("key", ""), path.child("key"))
    if label_values:
        for index, value in enumerate(values):
            where = path.child("values").index(index)
            errors += [field.invalid(where, value, message) for message in formats.label_value(value)]
    return errors


def _node_field_errors(expression: Mapping[str, Any], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    operator, values = expression.get("operator", ""), expression.get("values") or ()
    if operator in SET_OPERATORS:
        if len(values) != 1:
            errors.append(
                field.required(
                    path.child("values"),
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                )
            )
    else:
        errors.append(field.invalid(path.child("operator"), operator, "not a valid selector operator"))
    key = expression.get("key", "")
    if key != "metadata.name":
        errors.append(field.invalid(path.child("key"), key, "not a valid field selector key"))
        return errors
    for index, value in enumerate(values):
        where = path.child("values").index(index)
        errors += [field.invalid(where, value, message) for message in formats.dns1123_subdomain(value)]
    return errors
