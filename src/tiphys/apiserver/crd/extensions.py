"""What is wrong with the `x-kubernetes-*` words of a schema, taken alone.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

ONLY_NAMES: Final = "must not specify anything other than name and generateName, but metadata is implicitly specified"
REASONS: Final = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
_PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
# The steps of a field path: `.name`, or `['any name']`.
_STEP: Final = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\['([^']+)'\]")


def extension_errors(schema: Json, path: Path) -> list[FieldError]:
    """Errors of one node of a schema."""
    errors: list[FieldError] = []
    if schema.get(_PRESERVE) is False:
        errors.append(field.invalid(path.child(_PRESERVE), False, "must be true or undefined"))
    if schema.get("x-kubernetes-embedded-resource") and not schema.get("properties") and not schema.get(_PRESERVE):
        detail = f"must not be empty if x-kubernetes-embedded-resource is true without {_PRESERVE}"
        errors.append(field.required(path.child("properties"), detail))
    if schema.get("x-kubernetes-embedded-resource"):
        errors += _type_errors(schema, path, "object", "x-kubernetes-embedded-resource is true")
    kind = schema.get("x-kubernetes-map-type")
    if kind is not None:
        errors += _type_errors(schema, path, "object", "x-kubernetes-map-type is specified")
    if kind is not None and kind not in ("atomic", "granular"):
        errors.append(field.not_supported(path.child("x-kubernetes-map-type"), kind, ["atomic", "granular"]))
    for index, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
        if (rule.get("rule") or "").strip():
            errors += _rule_errors(rule, path.child("x-kubernetes-validations").index(index), schema)
    return errors + _set_errors(schema, path) + _list_type_errors(schema, path)


def _type_errors(schema: Json, path: Path, wanted: str, why: str) -> list[FieldError]:
    """The error of a node whose extension needs another type."""
    kind, where = schema.get("type") or "", path.child("type")
    detail = f"must be {wanted} if {why}"
    if kind == wanted:
        return []
    return [field.invalid(where, kind, detail) if kind else field.required(where, detail)]


def _set_errors(schema: Json, path: Path) -> list[FieldError]:
    """Items of a set are compared as wholes, so they have to be owned as wholes."""
    items = schema.get("items")
    if schema.get("x-kubernetes-list-type") != "set" or not isinstance(items, Mapping):
        return []
    word = {"object": "x-kubernetes-map-type", "array": "x-kubernetes-list-type"}.get(items.get("type", ""))
    if word is None or items.get(word) == "atomic" or (word == "x-kubernetes-list-type" and items.get(word) is None):
        return []
    detail = "must be atomic as item of a list with x-kubernetes-list-type=set"
    return [field.invalid(path.child("items", word), items.get(word), detail)]


def _list_type_errors(schema: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or ()
    where = path.child("x-kubernetes-list-type")
    if kind is not None:
        errors += _type_errors(schema, path, "array", "x-kubernetes-list-type is specified")
    if kind is not None and kind not in ("atomic", "map", "set"):
        errors.append(field.not_supported(where, kind, ["atomic", "set", "map"]))
    if keys and kind != "map":
        detail = "must be map if x-kubernetes-list-map-keys is non-empty"
        errors.append(field.invalid(where, kind, detail) if kind is not None else field.required(where, detail))
    items = schema.get("items")
    if kind == "map" and items is None:
        errors.append(field.required(path.child("items"), "must have a schema if x-kubernetes-list-type is map"))
    if kind == "map" and isinstance(items, Mapping):
        at = path.child("x-kubernetes-list-map-keys")
        if not keys:
            errors.append(field.required(at, "must not be empty if x-kubernetes-list-type is map"))
        properties = items.get("properties") or {}
        for key in keys:
            inner = properties.get(key)
            if inner is None:
                errors.append(field.invalid(at, list(keys), "entries must all be names of item properties"))
            elif key not in (items.get("required") or ()) and inner.get("default") is None:
                place = path.child("items", "properties").key(key).child("default")
                detail = (
                    "this property is in x-kubernetes-list-map-keys, "
                    "so it must have a default or be a required property"
                )
                errors.append(field.required(place, detail))
    return errors


def _rule_errors(rule: Json, where: Path, schema: Json) -> list[FieldError]:
    """What is wrong with a validation rule before it is compiled; `schema` is of the value it judges."""
    errors: list[FieldError] = []
    message = rule.get("message") or ""
    if message and not message.strip():
        errors.append(field.invalid(where.child("message"), message, "must be non-empty if specified"))
    elif "\n" in message.strip():
        errors.append(field.invalid(where.child("message"), message, "must not contain line breaks"))
    elif "\n" in rule["rule"].strip() and not message.strip() and not rule.get("messageExpression"):
        detail = "message must be specified if rule contains line breaks"
        errors.append(field.required(where.child("message"), detail))
    reason, target = rule.get("reason"), rule.get("fieldPath") or ""
    if reason is not None and reason not in REASONS:
        errors.append(field.not_supported(where.child("reason"), reason, REASONS))
    if target and not _leads(target, schema):
        errors.append(field.invalid(where.child("fieldPath"), target, "must be a valid path"))
    return errors


def _leads(target: str, schema: Json) -> bool:
    """Whether a field path names a value that the schema knows."""
    node: Any = schema
    position = 0
    while position < len(target):
        step = _STEP.match(target, position)
        if step is None or not isinstance(node, Mapping):
            return False
        additional = node.get("additionalProperties")
        found = (node.get("properties") or {}).get(step[1] or step[2])
        node = found if found is not None else additional if isinstance(additional, Mapping) else None
        if node is None:
            return False
        position = step.end()
    return True
