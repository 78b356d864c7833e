"""Structural schemas: the skeleton of an OpenAPI v3 schema that pruning, defaulting and field ownership follow.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.api.schemas import schema_of
from tiphys.machinery.misfit import DecodeError
from tiphys.machinery.normalize import normalize
from tiphys.machinery.schema import FieldSchema, TypeSchema

Object = dict[str, Any]
_NOTHING: Final = object()


@dataclass(slots=True, eq=False)
class Structural:
    """One node of a schema. `raw` is the schema itself, with the validations that hang on it."""

    raw: Mapping[str, Any]
    type: str = ""
    properties: Mapping[str, Structural] = field(default_factory=dict)
    items: Structural | None = None
    additional: Structural | None = None
    any_additional: bool = False
    preserve: bool = False
    embedded: bool = False
    int_or_string: bool = False
    nullable: bool = False
    # A null that may not be counts as absent; of a shape that says nothing nobody can tell.
    keeps_null: bool = False
    default: Any = _NOTHING
    list_type: str = ""
    list_map_keys: tuple[str, ...] = ()
    atomic_map: bool = False
    has_defaults: bool = False
    has_rules: bool = False

    @property
    def defaulted(self) -> bool:
        """Whether the node has a default of its own."""
        return self.default is not _NOTHING


def structural(raw: Mapping[str, Any] | None) -> Structural:
    """The skeleton of a schema, which has been judged to be structural before."""
    raw = raw or {}
    additional = raw.get("additionalProperties")
    node = Structural(
        raw,
        type=raw.get("type") or "",
        properties={name: structural(one) for name, one in (raw.get("properties") or {}).items()},
        items=structural(raw["items"]) if isinstance(raw.get("items"), Mapping) else None,
        additional=structural(additional) if isinstance(additional, Mapping) else None,
        any_additional=additional is True,
        preserve=bool(raw.get("x-kubernetes-preserve-unknown-fields")),
        embedded=bool(raw.get("x-kubernetes-embedded-resource")),
        int_or_string=bool(raw.get("x-kubernetes-int-or-string")),
        nullable=bool(raw.get("nullable")),
        keeps_null=bool(raw.get("nullable") or not raw.get("type")),
        default=raw["default"] if raw.get("default") is not None else _NOTHING,
        list_type=raw.get("x-kubernetes-list-type") or "",
        list_map_keys=tuple(raw.get("x-kubernetes-list-map-keys") or ()),
        atomic_map=raw.get("x-kubernetes-map-type") == "atomic",
    )
    inner = [*node.properties.values(), *(one for one in (node.items, node.additional) if one is not None)]
    node.has_defaults = node.defaulted or any(one.has_defaults for one in inner)
    node.has_rules = bool(raw.get("x-kubernetes-validations")) or any(one.has_rules for one in inner)
    return node


# --- pruning --------------------------------------------------------------------------------------
_KEPT_AT_ROOT: Final = frozenset({"apiVersion", "kind", "metadata"})


_WHOLE: Final = 1e21  # from here on numbers are written with an exponent


def pruned(value: Any, node: Structural, *, resource: bool = False, nulls: bool = False) -> Any:
    """The value without the fields the schema does not know. Values are shared with the input."""
    if isinstance(value, dict):
        return _pruned_object(value, node, resource or node.embedded, nulls)
    if isinstance(value, list) and node.items is not None:
        return [pruned(one, node.items, nulls=nulls) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        return int(value)  # 1.0 is written as 1
    return value


def _pruned_object(value: Object, node: Structural, resource: bool, nulls: bool) -> Object:
    out: Object = {}
    for key, found in value.items():
        if resource and key in _KEPT_AT_ROOT:
            out[key] = found
        elif key in node.properties:
            if found is not None or nulls or node.properties[key].keeps_null:
                out[key] = pruned(found, node.properties[key], nulls=nulls)
        elif node.additional is not None:
            out[key] = pruned(found, node.additional, nulls=nulls)
        elif node.preserve or node.any_additional:
            out[key] = found
    return out


# --- defaults -------------------------------------------------------------------------------------
def set_defaults(value: Any, node: Structural) -> None:
    """Set the defaults of missing fields in place; null where null may not be counts as missing."""
    if not node.has_defaults:
        return
    if isinstance(value, dict):
        for name, one in node.properties.items():
            if not one.has_defaults:
                continue
            found = value.get(name, _NOTHING)
            if one.defaulted and (found is _NOTHING or (found is None and not one.nullable)):
                value[name] = copy.deepcopy(one.default)
            if name in value:
                set_defaults(value[name], one)
        if node.additional is not None and node.additional.has_defaults:
            for key, found in value.items():
                if key in node.properties:
                    continue
                if found is None and node.additional.defaulted and not node.additional.nullable:
                    value[key] = copy.deepcopy(node.additional.default)
                set_defaults(value[key], node.additional)
    elif isinstance(value, list) and node.items is not None:
        for index, found in enumerate(value):
            if found is None and node.items.defaulted and not node.items.nullable:
                value[index] = copy.deepcopy(node.items.default)
            set_defaults(value[index], node.items)


# --- the type of the whole resource ---------------------------------------------------------------
_META: Final = schema_of("", "v1", "ConfigMap").fields["metadata"]


def resource_schema(root: Structural, group: str, version: str, kind: str) -> TypeSchema:
    """The resource as a TypeSchema: field ownership, unknown fields, and the normal form (pruned, metadata proper)."""
    fields = {name: _field(name, one) for name, one in root.properties.items() if name not in _KEPT_AT_ROOT}
    fields["metadata"] = _META
    schema = TypeSchema(
        f"{group}.{version}.{kind}",
        fields,
        group_version=(group, version),
        unknown=_ANY if root.preserve or root.any_additional else None,
    )
    schema.custom = True
    # What `machinery.normalize` would compile for a built-in type.
    schema.compiled["stored"] = schema.compiled["decoded"] = lambda value: _normal(value, root)
    # What was applied keeps its nulls: those that may not be are refused, not taken away.
    schema.compiled["applied"] = lambda value: _normal(value, root, nulls=True)
    return schema


_ANY: Final = FieldSchema("", "~")


def _normal(value: Any, root: Structural, *, nulls: bool = False) -> Object:
    if not isinstance(value, dict):
        raise DecodeError("json: cannot unmarshal into Go value of type map[string]interface {}")
    out: Object = pruned(value, root, resource=True, nulls=nulls)
    for name in ("apiVersion", "kind"):
        found = out.get(name, "")
        if not isinstance(found, str):
            raise DecodeError(f"json: cannot unmarshal into Go struct field .{name} of type string")
    metadata = out.get("metadata")
    wrapped = {} if metadata is None else {"metadata": metadata}
    out["metadata"] = normalize(wrapped, _HOLDER).get("metadata") or {}
    return out


_HOLDER: Final = TypeSchema("ObjectHolder", {"metadata": _META})


def _field(name: str, node: Structural) -> FieldSchema:
    """The shape of a value for ownership and unknown fields."""
    if node.int_or_string:
        return FieldSchema(name, "x")
    match node.type:
        case "object":
            return _object_field(name, node)
        case "array":
            items = _field("", node.items) if node.items is not None else _ANY
            return FieldSchema(
                name, "[", items=items, list_type=node.list_type or "atomic", list_map_keys=node.list_map_keys,
                default=node.default if node.defaulted else None,
            )  # fmt: skip
        case "string" | "integer" | "number" | "boolean":
            letter = {"string": "s", "integer": "l", "number": "f", "boolean": "b"}[node.type]
            return FieldSchema(name, letter, default=node.default if node.defaulted else None)
    return FieldSchema(name, "~")


def _object_field(name: str, node: Structural) -> FieldSchema:
    map_type = "atomic" if node.atomic_map else "granular"
    if node.additional is not None and not node.properties:
        return FieldSchema(name, "{", items=_field("", node.additional), map_type=map_type)
    if not node.properties and (node.preserve or node.any_additional):
        return FieldSchema(name, "~") if not node.atomic_map else FieldSchema(name, "*")
    fields = {one: _field(one, child) for one, child in node.properties.items()}
    if node.embedded:
        fields = {"apiVersion": FieldSchema("apiVersion", "s"), "kind": FieldSchema("kind", "s"), **fields}
        fields["metadata"] = _META
    unknown = _ANY if node.preserve or node.any_additional else None
    inner = TypeSchema(f"custom.{name}", fields, atomic=node.atomic_map, unknown=unknown)
    return FieldSchema(name, "@", type_name=inner.name, map_type=map_type, _type=inner)
