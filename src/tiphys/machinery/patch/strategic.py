"""Strategic merge patch: a merge patch that knows which lists merge, and by which key.

    containers: [{name: a, image: new}, {name: b, $patch: delete}]      items found by their merge key
    $setElementOrder/containers: [{name: c}, {name: a}]                 the order that results
    $deleteFromPrimitiveList/finalizers: [x]                            values to take away
    strategy: {$retainKeys: [type], type: Recreate}                     everything else goes

Source: Kubernetes documentation, "Strategic Merge Patch" (sig-api-machinery).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tiphys.machinery.patch.errors import BadPatchError, PatchError, show_map
from tiphys.machinery.schema import FieldSchema, TypeSchema

Map = dict[str, Any]

DIRECTIVE: Final = "$patch"
RETAIN_KEYS: Final = "$retainKeys"
DELETE_LIST: Final = "$deleteFromPrimitiveList/"
ELEMENT_ORDER: Final = "$setElementOrder/"
_GO_TYPES: Final = {
    str: "string",
    bool: "bool",
    int: "int64",
    float: "float64",
    dict: "map[string]interface {}",
    list: "[]interface {}",
}


def apply_strategic_patch(doc: Map, patch: Map, schema: TypeSchema) -> Map:
    """The patched document.

    Raises BadPatchError where the server answers 400, PatchError where it answers 500.
    """
    return _merge_map(doc, patch, schema)


def _merge_map(original: Map, patch: Map, schema: TypeSchema | None) -> Map:
    """`schema` is None inside a plain map, where no list merges."""
    if DIRECTIVE in patch:
        return _directive(patch)
    out = _retain_keys(original, patch)
    out, patch = _ordered_lists(out, patch, schema)
    for key, value in patch.items():
        if key == RETAIN_KEYS:
            continue
        name = key.removeprefix(DELETE_LIST)
        deletes = name != key
        if value is None:
            out.pop(name, None)
        elif name not in out or not _same_shape(out[name], value):
            if _is_directive(value):
                out.pop(name, None)
            elif not deletes:
                out[name] = without_directives(value)
        elif isinstance(value, dict):
            out[name] = _merge_child(out[name], value, schema, name)
        elif isinstance(value, list):
            out[name] = _merge_list_field(out[name], value, schema, name, deletes)
        else:
            out[name] = value
    return out


def _directive(patch: Map) -> Map:
    what = patch[DIRECTIVE]
    if what == "replace":
        return {key: value for key, value in patch.items() if key != DIRECTIVE}
    if what == "delete":
        return {}
    raise _unknown_directive(what, patch)


def _unknown_directive(what: Any, patch: Map) -> PatchError:
    shown = what if isinstance(what, str) else f"%!s({_GO_TYPES.get(type(what), '')}={show_map(what)})"
    return PatchError(f"unknown patch type: {shown} in map: {show_map(patch)}")


def _same_shape(left: Any, right: Any) -> bool:
    if isinstance(left, (dict, list)) or isinstance(right, (dict, list)):
        return type(left) is type(right)
    return True


def _retain_keys(original: Map, patch: Map) -> Map:
    """A copy of the original without what `$retainKeys` does not name."""
    if RETAIN_KEYS not in patch:
        return dict(original)
    keep = patch[RETAIN_KEYS]
    if not isinstance(keep, list):
        raise BadPatchError("invalid patch format of retainKeys")
    for key, value in patch.items():
        if (
            value is not None
            and key != RETAIN_KEYS
            and not key.startswith((DELETE_LIST, ELEMENT_ORDER))
            and key not in keep
        ):
            raise BadPatchError("invalid patch format of retainKeys")
    return {key: value for key, value in original.items() if key in keep}


def _field(schema: TypeSchema | None, name: str) -> FieldSchema | None:
    """The field's shape; None inside a plain map. Raises PatchError for a field that the type does not have."""
    if schema is None:
        return None
    one = schema.fields.get(name) or schema.unknown
    if one is None:
        short = schema.name.rpartition(".")[2]
        raise PatchError(f'unable to find api field in struct {short} for the json field "{name}"')
    return one


def _merge_child(original: Map, patch: Map, schema: TypeSchema | None, name: str) -> Map:
    one = _field(schema, name)
    if one is not None and "replace" in one.patch_strategy:
        return without_directives_map(patch)
    return _merge_map(original, patch, _below(one))


def _below(one: FieldSchema | None) -> TypeSchema | None:
    return one.type if one is not None and one.kind == "@" else None


def _merge_list_field(
    original: list[Any], patch: list[Any], schema: TypeSchema | None, name: str, deletes: bool
) -> Any:
    one = _field(schema, name)
    if deletes and not _holds_maps(original, patch):
        return [item for item in original if item not in patch]
    if one is None or "merge" not in one.patch_strategy:
        return original if deletes else patch
    return _merge_list(original, patch, one)


def _merge_list(original: list[Any], patch: list[Any], one: FieldSchema) -> list[Any]:
    if not original and not patch:
        return original
    if not _holds_maps(original, patch):
        merged = list(dict.fromkeys([*original, *patch]))
        return _in_order(merged, patch, original, "")
    key = one.patch_merge_key
    if not key:
        raise PatchError(f"cannot merge lists without merge key for {one.name}")
    kept, plain, replaced = _special_items(original, patch, key)
    if replaced:
        return plain
    items = one.items
    merged = _merge_items(kept, plain, key, items.type if items is not None and items.kind == "@" else None)
    return _in_order(merged, plain, kept, key)


def _holds_maps(*lists: Sequence[Any]) -> bool:
    """Do the lists hold maps? Raises PatchError when they hold maps and something else, or lists."""
    kinds = {type(item) for one in lists for item in one}
    if list in kinds:
        raise PatchError("lists of lists are not supported")
    if len(kinds) > 1:
        raise PatchError(f"list element types are not identical: {show_map(list(lists))}")
    return kinds == {dict}


def _special_items(original: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any], bool]:
    """(the original after the deletions, the patch's plain items, replace the list as a whole?)"""
    kept, plain, replaced = original, [], False
    for item in patch:
        what = item.get(DIRECTIVE)
        if what is None:
            plain.append(item)
        elif what == "delete":
            if key not in item:
                raise _no_merge_key(item, key)
            kept = [one for one in kept if one.get(key) != item[key]]
        elif what == "replace":
            replaced = True
        elif what == "merge":
            raise PatchError("merging lists cannot yet be specified in the patch")
        else:
            raise _unknown_directive(what, item)
    return kept, plain, replaced


def _merge_items(original: list[Any], patch: list[Any], key: str, schema: TypeSchema | None) -> list[Any]:
    merged = list(original)
    for item in patch:
        if key not in item:
            raise _no_merge_key(item, key)
        at = _find(merged, key, item[key])
        if at is None:
            merged.append(without_directives(item))
        else:
            merged[at] = _merge_map(merged[at], item, schema)
    return merged


def _find(items: list[Any], key: str, value: Any) -> int | None:
    for i, item in enumerate(items):
        if key not in item:
            raise _no_merge_key(item, key)
        if item[key] == value:
            return i
    return None


def _no_merge_key(item: Map, key: str) -> PatchError:
    return PatchError(f"map: {show_map(item)} does not contain declared merge key: {key}")


def _identity(item: Any, key: str) -> Any:
    found = item.get(key) if key and isinstance(item, dict) else item
    # No key is a list or an object, but a patch may say so: it is refused when the object is decoded.
    return repr(found) if isinstance(found, (dict, list)) else found


def _in_order(merged: list[Any], wanted: list[Any], server: list[Any], key: str) -> list[Any]:
    """The patch's items in the patch's order, the others in the server's, woven as the server had them.

    A server item goes before a patch item only if it was before it on the server.
    """
    rank = {_identity(item, key): i for i, item in reversed(list(enumerate(wanted)))}
    place = {_identity(item, key): i for i, item in reversed(list(enumerate(server)))}
    named = [(_identity(item, key), item) for item in merged]
    ours = sorted((one for one in named if one[0] in rank), key=lambda one: rank[one[0]])
    others = sorted((one for one in named if one[0] not in rank), key=lambda one: place.get(one[0], len(place)))
    if not others:
        return [item for _, item in ours]
    out: list[Any] = []
    at = 0
    for name, item in ours:
        own = place.get(name)
        while own is not None and at < len(others) and place.get(others[at][0], own) < own:
            out.append(others[at][1])
            at += 1
        out.append(item)
    return out + [item for _, item in others[at:]]


def _ordered_lists(original: Map, patch: Map, schema: TypeSchema | None) -> tuple[Map, Map]:
    """Merge the lists that have a `$setElementOrder`; the patch that is left has neither."""
    orders = [key for key in patch if key.startswith(ELEMENT_ORDER)]
    if not orders:
        return original, patch
    rest = {key: value for key, value in patch.items() if key not in orders}
    for order_key in orders:
        name = order_key.removeprefix(ELEMENT_ORDER)
        items = rest.pop(name, None)
        order, server = _list(patch[order_key]), original.get(name)
        if items is not None:
            _list(items)
        if server is None and items is None:
            _field(schema, name)
            continue
        one = _field(schema, name)
        key = one.patch_merge_key if one is not None else ""
        if items is not None:
            _check_order(items, order, key)
        merged = _merge_ordered(None if server is None else _list(server), items, one)
        _check_keys(order, merged, key)
        original[name] = _in_order(merged, order, server or [], key)
    return original, rest


def _list(value: Any) -> list[Any]:
    """The value itself. Raises PatchError for one that is no list."""
    if isinstance(value, list):
        return value
    found = "%!s(<nil>)" if value is None else _GO_TYPES.get(type(value), "string")
    raise PatchError(f"expected a []interface {{}}, but received a {found}")


def _check_keys(order: list[Any], items: list[Any], key: str) -> None:
    """Where maps are ordered, the order is told by maps with their merge key."""
    if not key or not any(isinstance(item, dict) for item in items):
        return
    for index, item in enumerate(order):
        if not isinstance(item, dict):
            raise PatchError(f"value for key {index} is not a map")
        if key not in item:
            raise _no_merge_key(item, key)


def _merge_ordered(server: list[Any] | None, items: list[Any] | None, one: FieldSchema | None) -> list[Any]:
    if items is None:
        return list(server or [])
    if server is None:
        return [item for item in without_directives(items) if item != {}]
    if one is None or "merge" not in one.patch_strategy:
        return items
    return _merge_list(server, items, one)


def _check_order(items: list[Any], order: list[Any], key: str) -> None:
    """The patch's items (but for deletions) must come in the order that the patch asks for."""
    if key and any(isinstance(one, dict) and key not in one for one in order):
        raise BadPatchError("invalid patch format of setElementOrder list")
    if not order:
        return
    if key and not isinstance(order[0], dict):
        raise PatchError(
            f"expected a map[string]interface {{}}, but received a {_GO_TYPES.get(type(order[0]), 'string')}"
        )
    wanted = [_identity(item, key) for item in order]
    at = 0
    for item in items:
        if isinstance(item, dict) and item.get(DIRECTIVE) == "delete":
            continue
        while at < len(wanted) and wanted[at] != _identity(item, key):
            at += 1
        if at == len(wanted):
            found, asked = show_map(items), show_map(order)
            raise PatchError(f"The order in patch list:\n{found}\n doesn't match $setElementOrder list:\n{asked}\n")
        at += 1


def without_directives(value: Any) -> Any:
    """A new subtree of the patch as it goes into the document: no directives, no nulls below it."""
    if isinstance(value, dict):
        return without_directives_map(value)
    if isinstance(value, list):
        return [without_directives(item) for item in value if not _is_directive(item)]
    return value


def _is_directive(item: Any) -> bool:
    """What tells how to change something that is not there."""
    return isinstance(item, dict) and DIRECTIVE in item


def without_directives_map(value: Map) -> Map:
    return {
        key: without_directives(one) if isinstance(one, (dict, list)) else one
        for key, one in value.items()
        if one is not None
        and not (key[:1] == "$" and _says_how(key))
        and not (isinstance(one, dict) and _is_directive(one))
    }


def _says_how(key: str) -> bool:
    """A key that is no field but a directive."""
    return key in (DIRECTIVE, RETAIN_KEYS) or key.startswith((DELETE_LIST, ELEMENT_ORDER))
