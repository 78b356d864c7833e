"""JSON patch (RFC 6902), as the server's library applies it: negative indices count from the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from tiphys.machinery.patch.errors import BadPatchError, PatchError

# More operations than these in one patch are refused by the server with 413.
MAX_OPERATIONS: Final = 10_000
FIELDS: Final = frozenset({"op", "path", "from", "value"})


def apply_json_patch(doc: Any, operations: Any) -> Any:
    """The patched document.

    Raises BadPatchError for something that is no list of operations (400), PatchError for an operation that fails
    (the server answers 422 "the server rejected our request due to an error in our request").
    """
    if problem := operations_problem(operations):
        raise BadPatchError(problem)
    # A patch touches little, but may touch it many times: one copy, then in place.
    holder = {"": deepcopy(doc)}
    for operation in operations:
        _apply(holder, operation)
        if holder.get("") is None:
            raise PatchError("the whole document was removed")
    return holder[""]


def operations_problem(operations: Any) -> str:
    """Why this is no list of operations; "" when it is one."""
    if not isinstance(operations, list):
        return f"json: cannot unmarshal {_json_type(operations)} into Go value of type []handlers.jsonPatchOp"
    for operation in operations:
        if operation is None:
            continue  # decoded to an operation without anything
        if not isinstance(operation, dict):
            return f"json: cannot unmarshal {_json_type(operation)} into Go value of type handlers.jsonPatchOp"
        for name in ("op", "path", "from"):
            value = operation.get(name)
            if value is not None and not isinstance(value, str):
                found = _json_type(value)
                return f"json: cannot unmarshal {found} into Go struct field jsonPatchOp.{name} of type string"
    return ""


def field_problems(body: bytes) -> list[str]:
    """Fields of operations that are given twice or mean nothing, in the order of the text.

    `body` is the text of a list of operations. https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation
    """
    found: list[str] = []
    for index, operation in enumerate(json.loads(body, object_pairs_hook=_Members) or ()):
        seen: set[str] = set()
        for name, _ in operation or ():
            if name not in FIELDS:
                found.append(f'json patch unknown field "[{index}].{name}"')
            elif name in seen:
                found.append(f'json patch duplicate field "[{index}].{name}"')
            seen.add(name)
    return found


class _Members(list[tuple[str, Any]]):
    """The members of an object as they stand in the text."""


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
    return names.get(type(value), "null")


def _apply(holder: dict[str, Any], operation: Mapping[str, Any] | None) -> None:
    operation = operation or {}
    kind = operation.get("op")
    path = operation.get("path")
    if not isinstance(path, str):
        raise PatchError("operation missing path field")
    match kind:
        case "add":
            _add(holder, path, _value(operation))
        case "remove":
            _remove(holder, path)
        case "replace":
            # Of an object also a member that is not there yet.
            container, key = _container(holder, path)
            _set(container, key, _value(operation))
        case "add" | "move" | "copy" if "/" not in path:
            raise PatchError("the whole document can only be replaced")
        case "move" | "copy" if "/" not in _source(operation):
            raise PatchError("the whole document cannot be put into itself")
        case "replace" if "/" not in path and not isinstance(operation.get("value"), (dict, list)):
            raise PatchError("a document is an object")
        case "move":
            value = _get(holder, _source(operation))
            _remove(holder, _source(operation))
            _add(holder, path, value)
        case "copy":
            _add(holder, path, deepcopy(_found(holder, _source(operation))))
        case "test":
            _test(holder, path, operation.get("value"))
        case _:
            raise PatchError(f"Unexpected kind: {kind}")


def _value(operation: Mapping[str, Any]) -> Any:
    """What is added; none given is null."""
    return deepcopy(operation.get("value"))


def _source(operation: Mapping[str, Any]) -> str:
    source = operation.get("from")
    if not isinstance(source, str):
        raise PatchError("operation missing from field")
    return source


def _keys(path: str) -> Sequence[str]:
    """The parts of a path, from the root on; what stands before the first slash is not looked at."""
    return ["", *(part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:])]


def _container(holder: dict[str, Any], path: str) -> tuple[Any, str]:
    """The object or list that holds the path's last part; the root is the holder's only member."""
    *parents, last = _keys(path)
    here: Any = holder
    for key in parents:
        here = _child(here, key, path)
        if not isinstance(here, (dict, list)):
            raise PatchError(f"doc is missing path: {path}")
    return here, last


def _child(here: Any, key: str, path: str) -> Any:
    if isinstance(here, dict):
        if key not in here:
            raise PatchError(f"doc is missing key: {path}")
        return here[key]
    return here[_index(here, key, path)]


def _index(items: list[Any], key: str, path: str) -> int:
    try:
        index = int(key)
    except ValueError:
        raise PatchError(f"value was not a proper array index: {key}") from None
    if not -len(items) <= index < len(items):
        raise PatchError(f"unable to access invalid index: {index}: {path}")
    return index


def _get(holder: dict[str, Any], path: str) -> Any:
    container, key = _container(holder, path)
    return _child(container, key, path)


def _set(container: Any, key: str, value: Any) -> None:
    if isinstance(container, dict):
        container[key] = value
    else:
        container[_index(container, key, key)] = value


def _add(holder: dict[str, Any], path: str, value: Any) -> None:
    container, key = _container(holder, path)
    if isinstance(container, dict):
        container[key] = value
        return
    if key == "-":
        container.append(value)
        return
    try:
        index = int(key)
    except ValueError:
        raise PatchError(f"value was not a proper array index: {key}") from None
    if index < 0:
        index += len(container) + 1
    if not 0 <= index <= len(container):
        raise PatchError(f"unable to access invalid index: {key}")
    container.insert(index, value)


def _remove(holder: dict[str, Any], path: str) -> None:
    container, key = _container(holder, path)
    if isinstance(container, dict):
        if key not in container:
            raise PatchError(f"unable to remove nonexistent key: {key}")
        del container[key]
    else:
        del container[_index(container, key, path)]


def _found(holder: dict[str, Any], path: str) -> Any:
    """What is at a path; a member that is missing equals null."""
    container, key = _container(holder, path)
    return container.get(key) if isinstance(container, dict) else _child(container, key, path)


def _test(holder: dict[str, Any], path: str, expected: Any) -> None:
    if not same(_found(holder, path), expected):
        raise PatchError(f"testing value {path} failed")


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
