"""The runtime form of a type: what a value of JSON is, and how its lists and maps merge.

A `TypeSchema` is an object's shape: its fields in the order in which the server writes them. A `FieldSchema` is the
shape of one value: a field's, a list item's or a map value's. Both come from the generated data (`tiphys.api.schemas`)
and are immutable once built, but for what compiled walkers keep on them.

The value's shape is a node, a short text:

    s string   y base64 bytes   q quantity   x integer or string   t Time   u MicroTime
    i int32    l int64          f number     b boolean             o any object   * anything
    @core.v1.PodSpec a struct   [N list of N   {N map from string to N
    ~ any JSON that a custom resource keeps: its maps merge, its lists do not
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SCALARS: Final = frozenset("syqxtuilfb")

# Resolves a struct's name to its schema.
Resolver = Callable[[str], "TypeSchema"]


@dataclass(slots=True, eq=False)
class FieldSchema:
    """One value's shape. `kind` is the first letter of the node.

    `items` is the shape of a list's items or a map's values; `type` the struct of an `@` node.
    `list_type` is atomic, set, map or ""; "" means atomic. `map_type` is atomic, granular or "".
    `required`: the document says so. `pointer`: zero differs from absent. `always`: written even when empty.
    """

    name: str
    kind: str
    items: FieldSchema | None = None
    type_name: str = ""
    resolve: Resolver | None = None
    required: bool = False
    pointer: bool = False
    value: bool = False
    always: bool = False
    list_type: str = ""
    list_map_keys: tuple[str, ...] = ()
    map_type: str = ""
    patch_strategy: tuple[str, ...] = ()
    patch_merge_key: str = ""
    default: Any = None
    # How the value is owned; worked out and kept by `tiphys.machinery.patch.typed`.
    role: Any = None
    _type: TypeSchema | None = None

    @property
    def type(self) -> TypeSchema | None:
        """The struct's schema; None for anything else."""
        if self._type is None and self.resolve is not None and self.kind == "@":
            self._type = self.resolve(self.type_name)
        return self._type

    @property
    def atomic(self) -> bool:
        """Is the value owned and replaced as a whole?"""
        match self.kind:
            case "[":
                return self.list_type not in {"set", "map"}
            case "{":
                return self.map_type == "atomic"
            case "@":
                if self.map_type:
                    return self.map_type == "atomic"
                return self.type is not None and self.type.atomic
        return True

    @property
    def is_scalar(self) -> bool:
        return self.kind in SCALARS


@dataclass(slots=True, eq=False)
class TypeSchema:
    """A struct's shape. `fields` by JSON name in wire order.

    `unknown` says what a field that is not listed is: None: nothing (it is pruned, or an error in strict decoding);
    otherwise the shape of its value (a custom resource with preserved unknown fields).
    """

    name: str
    fields: Mapping[str, FieldSchema]
    atomic: bool = False
    group_version: tuple[str, str] | None = None
    unknown: FieldSchema | None = None
    # A custom resource: made from a definition, with walkers of its own.
    custom: bool = False
    # How messages spell a field, where its shape does not tell: its type's own name, and the struct it is part of.
    type_names: Mapping[str, str] = field(default_factory=dict)
    embedded_in: Mapping[str, str] = field(default_factory=dict)
    # Compiled walkers (normal form, field sets, checks) keep what they build for this type here, by their own name.
    compiled: dict[str, Any] = field(default_factory=dict)

    @property
    def is_kind(self) -> bool:
        """Is it a top-level kind, with apiVersion, kind and (mostly) metadata?"""
        return self.group_version is not None


def node_schema(name: str, node: str, resolve: Resolver) -> FieldSchema:
    """The shape of a node's value, with every marker unset."""
    kind = node[0]
    if kind in "[{":
        return FieldSchema(name, kind, items=node_schema("", node[1:], resolve))
    if kind == "@":
        return FieldSchema(name, kind, type_name=node[1:], resolve=resolve)
    # `*Name` is any JSON of a known special type.
    return FieldSchema(name, kind, type_name=node[1:], resolve=resolve)


def type_schema(name: str, facts: Mapping[str, Any], resolve: Resolver) -> TypeSchema:
    """A type from its entry in the generated data (see tools/apigen/schemas.py for the letters)."""
    fields: dict[str, FieldSchema] = {}
    for key, node, *rest in facts["f"]:
        one = node_schema(key, node, resolve)
        if rest:
            marks = rest[0]
            one.required = "r" in marks
            one.pointer = "p" in marks
            one.value = "v" in marks
            one.always = "a" in marks
            one.list_type = marks.get("l", "")
            one.list_map_keys = tuple(marks.get("k", ()))
            one.map_type = marks.get("m", "")
            one.patch_strategy = tuple(marks["s"].split(",")) if "s" in marks else ()
            one.patch_merge_key = marks.get("g", "")
            one.default = marks.get("d")
        fields[key] = one
    kind = facts.get("k")
    return TypeSchema(
        name,
        fields,
        facts.get("m") == "atomic",
        tuple(kind) if kind else None,
        type_names=facts.get("t", {}),
        embedded_in={one: struct for struct, names in facts.get("e", {}).items() for one in names},
    )
