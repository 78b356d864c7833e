"""What a strict decoder objects to: fields that the type does not have, and fields that come twice.

Problems are listed in the document's order, as `unknown field "spec.foo"` and `duplicate field "metadata.name"`.
Source: Kubernetes documentation, "Server-side field validation".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from tiphys.machinery.field import quote
from tiphys.machinery.schema import FieldSchema, TypeSchema

# The server names no more than these.
MAX_PROBLEMS: Final = 100

_KIND_FIELDS: Final = frozenset({"apiVersion", "kind"})


class _Pairs(dict[str, Any]):
    """An object that remembers which keys came again, and where: at which of its pairs."""

    __slots__ = ("pairs",)
    pairs: Sequence[tuple[str, Any]]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    marked = _Pairs(plain)
    marked.pairs = pairs
    return marked


def strict_problems(
    value: Any, schema: TypeSchema, data: bytes | None = None, *, only_known: bool = False
) -> list[str]:
    """The problems of a decoded document.

    `data` is the JSON it was decoded from, when duplicates matter and YAML has not reported them already.
    `only_known`: the document is known to have no other fields than its type's, so only duplicates matter.
    """
    unique = data is None or _surely_unique(value, data)
    if unique and only_known:
        return []
    if data is not None and not unique:
        # Bytes that are no UTF-8 have been replaced in the value, too.
        value = json.loads(data.decode("utf-8", "replace"), object_pairs_hook=_object)
    problems: list[str] = []
    _check_struct(value, schema, "", problems)
    return problems[:MAX_PROBLEMS]


def _surely_unique(value: Any, data: bytes) -> bool:
    """A document that encodes back to the same bytes has lost no key; compact JSON, which clients send, does."""
    return orjson.dumps(value) == data.strip()


def strict_message(problems: Iterable[str], yaml_problems: Sequence[str] = ()) -> str:
    """The text of a strict decoding error: duplicates of a YAML document first, in their own form."""
    parts = list(problems)
    if yaml_problems:
        parts.insert(0, "yaml: unmarshal errors:\n  " + "\n  ".join(yaml_problems))
    return "strict decoding error: " + ", ".join(parts)


def _check_struct(value: Any, schema: TypeSchema, path: str, problems: list[str]) -> None:
    if not isinstance(value, dict):
        return
    fields = schema.fields
    seen: set[str] | None = set() if isinstance(value, _Pairs) else None
    for key, found in value.pairs if isinstance(value, _Pairs) else value.items():
        one = fields.get(key) or schema.unknown
        if seen is not None:
            if key in seen:
                if one is None and not (schema.is_kind and key in _KIND_FIELDS):
                    continue  # an unknown field is told once
                problems.append(f"duplicate field {quote(path + key)}")
            seen.add(key)
        if one is not None:
            if one.kind in "@[{":
                _check(found, one, f"{path}{key}", problems)
        elif not (schema.is_kind and key in _KIND_FIELDS):
            problems.append(f"unknown field {quote(path + key)}")


def _check(value: Any, one: FieldSchema, path: str, problems: list[str]) -> None:
    match one.kind:
        case "@":
            assert one.type is not None
            _check_struct(value, one.type, f"{path}.", problems)
        case "[" if isinstance(value, list):
            items = one.items
            assert items is not None
            if items.kind in "@[{":
                for i, item in enumerate(value):
                    _check(item, items, f"{path}[{i}]", problems)
        case "{" if isinstance(value, dict):
            _check_map(value, one, path, problems)


def _check_map(value: dict[str, Any], one: FieldSchema, path: str, problems: list[str]) -> None:
    items = one.items
    assert items is not None
    seen: set[str] | None = set() if isinstance(value, _Pairs) else None
    for key, found in value.pairs if isinstance(value, _Pairs) else value.items():
        if seen is not None:
            if key in seen:
                problems.append(f"duplicate field {quote(f'{path}.{key}')}")
            seen.add(key)
        if items.kind in "@[{":
            _check(found, items, f"{path}.{key}", problems)
