"""An object as a typed value: what differs, what is set, merging, and taking away, all by the schema.

Maps and structs merge by field, lists with keys by item, everything else is one leaf. `None` is a value (null); what
is absent is not in its dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

import orjson

from tiphys.machinery.fieldset import (
    LEAF,
    MEMBER,
    Node,
    Ordered,
    children,
    combine,
    element_text,
    is_member,
    key_element,
    ordered,
    union,
    value_element,
)
from tiphys.machinery.normalize import zero
from tiphys.machinery.schema import FieldSchema, TypeSchema

Object = dict[str, Any]


class Role(Enum):
    """How a value is owned."""

    LEAF = 0
    STRUCT = 1
    MAP = 2
    LIST = 3
    DEDUCED = 4  # no schema: maps merge, anything else is a leaf


_KIND_FIELDS: Final = frozenset({"apiVersion", "kind"})
_DEDUCED: Final = FieldSchema("", "~")
_LEAF_SHAPE: Final = FieldSchema("", "*")


def root_shape(schema: TypeSchema) -> FieldSchema:
    """An object of this type as a value. It merges by field even where its type elsewhere does not."""
    shape: FieldSchema | None = schema.compiled.get("root")
    if shape is None:
        shape = schema.compiled["root"] = FieldSchema("", "@", type_name=schema.name, map_type="granular", _type=schema)
    return shape


def role_of(shape: FieldSchema) -> Role:
    """How a value of this shape is owned."""
    found = shape.role
    if isinstance(found, Role):
        return found
    role = Role.LEAF
    if shape.kind == "~":
        role = Role.DEDUCED
    elif shape.kind in "@[{" and not shape.atomic:
        role = {"@": Role.STRUCT, "[": Role.LIST, "{": Role.MAP}[shape.kind]
    shape.role = role
    return role


def _fields(shape: FieldSchema) -> Mapping[str, FieldSchema]:
    assert shape.type is not None
    return shape.type.fields


def child_shape(shape: FieldSchema, name: str) -> FieldSchema:
    """The shape of a struct's field or a map's value."""
    if shape.kind == "@":
        struct = shape.type
        assert struct is not None
        return struct.fields.get(name) or struct.unknown or _LEAF_SHAPE
    return shape.items or _DEDUCED


def element(item: Any, shape: FieldSchema, index: int) -> str:
    """The path element of a list's item."""
    if shape.list_type == "set":
        return value_element(item)
    items = shape.items
    if not isinstance(item, dict) or items is None:
        return f"i:{index}"
    keys: Object = {}
    for name in shape.list_map_keys:
        value = item.get(name)
        if value is None and items.kind == "@":
            value = _key_default(_fields(items).get(name))
        if value is not None:
            keys[name] = value
    return key_element(keys) if keys else f"i:{index}"


def _key_default(field: FieldSchema | None) -> Any:
    """What stands for a key that an item leaves out: a key that is always written has the zero of its type."""
    if field is None:
        return None
    if field.default is None and field.always and not field.pointer:
        return {"s": "", "i": 0, "l": 0}.get(field.kind)
    return field.default


def _by_element(values: Sequence[Any], shape: FieldSchema) -> dict[str, Any]:
    """Items by path element. Of items with the same keys the list is the value (a `_Same`)."""
    out: dict[str, Any] = {}
    for i, item in enumerate(values):
        key = element(item, shape, i)
        if key not in out:
            out[key] = item
        elif isinstance(out[key], _Same):
            out[key].append(item)
        else:
            out[key] = _Same([out[key], item])
    return out


class _Same(list[Any]):
    """Several items of an associative list that have the same keys: owned together."""


class Comparison(NamedTuple):
    """What is new, what has another value, what is gone."""

    added: Node
    modified: Node
    removed: Node

    @property
    def empty(self) -> bool:
        return not (self.added or self.modified or self.removed)


_Parts = tuple[Node | None, Node | None, Node | None]
_SAME: Final[_Parts] = (None, None, None)
_MODIFIED: Final[_Parts] = (None, LEAF, None)


def compare(old: Object, new: Object, schema: TypeSchema) -> Comparison:
    """How `new` differs from `old`; apiVersion and kind are left out."""
    shape = root_shape(schema)
    parts = _compare_maps(_body(old, schema), _body(new, schema), shape)
    return Comparison(*(part or {} for part in parts))


# Large structs of new objects whose sets are remembered: many objects are made from one template.
_REMEMBERED: Final = 64
_WORTH_REMEMBERING: Final = range(256, 32 * 1024)


def set_by_creation(new: Object, schema: TypeSchema) -> Node:
    """What a new object has that an empty one has not, with another value or at all."""
    empty = schema.compiled.get("zero")
    if empty is None:
        empty = schema.compiled["zero"] = zero(schema)
    remembered: dict[tuple[str, bytes], Node] = schema.compiled.setdefault("created", {})
    shape = root_shape(schema)
    out: Node = {}
    for name, value in _body(new, schema).items():
        one = schema.fields.get(name)
        key = None
        if one is not None and one.kind == "@" and name != "metadata" and value:
            data = orjson.dumps(value)
            if len(data) in _WORTH_REMEMBERING:
                key = name, data
                node = remembered.pop(key, None)
                if node is not None:
                    out[f"f:{name}"] = remembered[key] = node
                    continue
        before = {name: empty[name]} if name in empty else {}
        added, modified, _ = _compare_children(before, {name: value}, shape, "f:")
        found = union(modified or {}, added or {})
        if key is not None and found:
            found = {f"f:{name}": Ordered(ordered(found[f"f:{name}"]))}
            remembered[key] = found[f"f:{name}"]
            if len(remembered) > _REMEMBERED:
                del remembered[next(iter(remembered))]
        out.update(found)
    return out


def _body(obj: Object, schema: TypeSchema) -> Object:
    if not schema.is_kind:
        return obj
    return {key: value for key, value in obj.items() if key not in _KIND_FIELDS}


def _compare(old: Any, new: Any, shape: FieldSchema) -> _Parts:
    """Both are there, and differ."""
    role = role_of(shape)
    if role is Role.LEAF or isinstance(old, _Same) or isinstance(new, _Same):
        return _MODIFIED
    if role is Role.LIST:
        before, after = (v if isinstance(v, list) else [] for v in (old, new))
        if not before and not after:
            return _MODIFIED
        assert shape.items is not None
        return _compare_children(_by_element(before, shape), _by_element(after, shape), shape, "")
    if role is Role.DEDUCED and not (isinstance(old, dict) and isinstance(new, dict)):
        return _MODIFIED
    before_map, after_map = (v if isinstance(v, dict) else {} for v in (old, new))
    if not before_map and not after_map:
        return _MODIFIED
    return _compare_maps(before_map, after_map, shape)


def _compare_maps(old: Object, new: Object, shape: FieldSchema) -> _Parts:
    return _compare_children(old, new, shape, "f:")


def _compare_children(old: Object, new: Object, shape: FieldSchema, prefix: str) -> _Parts:
    """Members by name (`prefix` f:) or by path element (no prefix, items of a list)."""
    added: Node = {}
    modified: Node = {}
    removed: Node = {}
    for name, after in new.items():
        known = name in old
        before = old[name] if known else None
        if known and (before is after or (before == after and type(before) is type(after))):
            continue
        child = child_shape(shape, name) if prefix else shape.items or _DEDUCED
        if not known:
            added[prefix + name] = whole(after, child)
            continue
        parts = _compare(before, after, child)
        for part, into in zip(parts, (added, modified, removed), strict=True):
            if part is not None:
                into[prefix + name] = part
    for name, before in old.items() if old.keys() - new.keys() else ():
        if name not in new:
            removed[prefix + name] = whole(before, child_shape(shape, name) if prefix else shape.items or _DEDUCED)
    return added or None, modified or None, removed or None


def whole(value: Any, shape: FieldSchema) -> Node:
    """The node of a value that is there as a whole: it and everything below it."""
    role = role_of(shape)
    if role is Role.LEAF or not value or isinstance(value, _Same):
        return LEAF
    if role is Role.LIST and isinstance(value, list):
        items = shape.items or _DEDUCED
        return {MEMBER: LEAF, **{key: whole(item, items) for key, item in _by_element(value, shape).items()}}
    if not isinstance(value, dict):
        return LEAF
    below: Node = {MEMBER: LEAF}
    for name, one in value.items():
        child = child_shape(shape, name)
        # Most of what is in a struct is a leaf.
        below["f:" + name] = LEAF if not one or child.role is Role.LEAF else whole(one, child)
    return below


def field_set(obj: Object, schema: TypeSchema) -> Node:
    """The fields that a configuration sets: its leaves and list items."""
    return _set_of_map(_body(obj, schema), root_shape(schema))


def _set_of_map(value: Object, shape: FieldSchema) -> Node:
    out: Node = {}
    struct = role_of(shape) is Role.STRUCT
    for name, one in value.items():
        child = child_shape(shape, name)
        declared = struct and name in _fields(shape)
        node = combine(one is None or one == {} or not declared, _set_of(one, child))
        if node is None and role_of(child) is Role.LEAF:
            node = LEAF
        if node is not None:
            out[f"f:{name}"] = node
    return out


def _set_of(value: Any, shape: FieldSchema) -> Node:
    """What is below a value; a leaf has nothing below it."""
    role = role_of(shape)
    if role is Role.LIST and isinstance(value, list):
        items = shape.items or _DEDUCED
        out: Node = {}
        for i, item in enumerate(value):
            node = combine(True, _set_of(item, items))
            assert node is not None
            out[element(item, shape, i)] = node
        return out
    if role is not Role.LEAF and isinstance(value, dict):
        return _set_of_map(value, shape)
    return {}


def merge(live: Object, applied: Object, schema: TypeSchema) -> Object:
    """The live object with everything that the applied one sets."""
    return _merge_maps(live, applied, root_shape(schema))


def _merge(live: Any, applied: Any, shape: FieldSchema) -> Any:
    role = role_of(shape)
    if role is Role.LEAF:
        return applied
    if role is Role.LIST:
        left, right = (v if isinstance(v, list) else [] for v in (live, applied))
        return _merge_lists(left, right, shape) if left or right else applied
    if role is Role.DEDUCED and not isinstance(applied, dict):
        return applied
    before, after = (v if isinstance(v, dict) else {} for v in (live, applied))
    return _merge_maps(before, after, shape) if before or after else applied


def _merge_maps(live: Object, applied: Object, shape: FieldSchema) -> Object:
    out = dict(live)
    for name, value in applied.items():
        out[name] = _merge(live[name], value, child_shape(shape, name)) if name in live else value
    return out


def _merge_lists(live: list[Any], applied: list[Any], shape: FieldSchema) -> list[Any]:
    """Items that both have come in the applied order, the live ones between them where they were."""
    items = shape.items or _DEDUCED
    left = [(element(item, shape, i), item) for i, item in enumerate(live)]
    right = [(element(item, shape, i), item) for i, item in enumerate(applied)]
    ours, theirs = dict(left), dict(right)
    shared = [key for key, _ in right if key in ours]
    next_shared = 0
    out: list[Any] = []
    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left):
            key, item = left[i]
            if key not in theirs:
                out.append(item)
                i += 1
                continue
            if j < len(right) and right[j][0] == key:
                i += 1
            elif next_shared >= len(shared) or shared[next_shared] != key:
                # Its turn comes, or has come, with the applied list.
                i += 1
                continue
        key, item = right[j]
        out.append(_merge(ours[key], item, items) if key in ours else item)
        if next_shared < len(shared) and shared[next_shared] == key:
            next_shared += 1
        j += 1
    return out


def remove(obj: Object, gone: Node, schema: TypeSchema) -> Object:
    """The object without these members and everything below them. An emptied list goes, an emptied map stays."""
    return _remove_from_map(obj, gone, root_shape(schema))


def _remove(value: Any, gone: Node, shape: FieldSchema) -> Any:
    role = role_of(shape)
    if role is Role.LEAF or not value:
        return value
    if role is Role.LIST and isinstance(value, list):
        items = shape.items or _DEDUCED
        out = []
        for i, item in enumerate(value):
            node = gone.get(element(item, shape, i))
            if node is None:
                out.append(item)
            elif not is_member(node):
                out.append(_remove(item, node, items))
        return out or None
    return _remove_from_map(value, gone, shape) if isinstance(value, dict) else value


def _remove_from_map(value: Object, gone: Node, shape: FieldSchema) -> Object:
    out: Object = {}
    for name, one in value.items():
        node = gone.get(f"f:{name}")
        if node is None:
            out[name] = one
        elif not is_member(node):
            left = _remove(one, node, child_shape(shape, name))
            if left is not None or one is None:
                out[name] = left
    return out


def with_named_parents(node: Node, schema: TypeSchema) -> Node:
    """The set in which every struct field on the way to a member is a member too."""
    return _with_parents(node, root_shape(schema))


def _with_parents(node: Node, shape: FieldSchema | None) -> Node:
    out: Node = {}
    for key, child in node.items():
        if key == MEMBER:
            continue
        named = False
        below: FieldSchema | None = None
        if shape is not None:
            if key.startswith("f:"):
                named = shape.kind == "@" and key[2:] in _fields(shape)
                below = child_shape(shape, key[2:]) if shape.kind in "@{~" else None
            else:
                below = shape.items
        kept = combine(is_member(child) or named, _with_parents(children(child), below))
        if kept is not None:
            out[key] = kept
    return out


def problems(obj: Object, schema: TypeSchema) -> list[str]:
    """What keeps a configuration from being applied: unknown fields, wrong types, items that come twice."""
    out: list[str] = []
    _check_map(_body(obj, schema), root_shape(schema), "", out)
    return out


def _check(value: Any, shape: FieldSchema, path: str, out: list[str]) -> None:
    if value is None:
        return
    match shape.kind:
        case "@" | "{":
            if isinstance(value, dict):
                _check_map(value, shape, path, out)
            else:
                out.append(f"{path}: expected map, got &{{{_go(value)}}}")
        case "[":
            if isinstance(value, list):
                _check_list(value, shape, path, out)
            else:
                out.append(f"{path}: expected list, got &{{{_go(value)}}}")
        case "i" | "l" | "f" if isinstance(value, bool) or not isinstance(value, (int, float)):
            out.append(f"{path}: expected numeric (int or float), got {_go_type(value)}")
        case "s" | "y" | "t" | "u" if not isinstance(value, str):
            out.append(f"{path}: expected string, got &value.valueUnstructured{{Value:{_go(value)}}}")
        case "b" if not isinstance(value, bool):
            out.append(f"{path}: expected boolean, got &{{{_go(value)}}}")


def _check_map(value: Object, shape: FieldSchema, path: str, out: list[str]) -> None:
    for name, one in value.items():
        if shape.kind == "@":
            assert shape.type is not None
            if name not in shape.type.fields and shape.type.unknown is None:
                out.append(f"{path}.{name}: field not declared in schema")
                continue
        _check(one, child_shape(shape, name), f"{path}.{name}", out)


def _check_list(value: list[Any], shape: FieldSchema, path: str, out: list[str]) -> None:
    items = shape.items or _DEDUCED
    merges = role_of(shape) is Role.LIST
    seen: set[str] = set()
    for i, item in enumerate(value):
        key = element(item, shape, i) if merges else f"i:{i}"
        if merges and item is None and shape.list_map_keys:
            out.append(f"{path}: element {i}: associative list with keys may not have a null element")
            continue
        if merges and key.startswith("i:"):
            names = ", ".join(f'"{name}"' for name in shape.list_map_keys).replace(", ", " ")
            out.append(
                f"{path}: element {i}: associative list with keys has an element that omits all key fields [{names}] "
                "(and doesn't have default values for any key fields)"
            )
        elif merges and key in seen:
            out.append(f"{path}: duplicate entries for key {element_text(key)}")
        seen.add(key)
        _check(item, items, path + element_text(key), out)


def _go(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{_go(value[k])}" for k in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_go, value)) + "]"
    return str(value)


def _go_type(value: Any) -> str:
    names: Mapping[type, str] = {str: "string", bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}
    return names.get(type(value), "interface {}")
