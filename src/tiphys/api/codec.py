"""JSON of the generated types.

`encode_object` writes apiVersion and kind first and gives every time its exact precision; `decode_object` accepts
what a real server sends: unknown fields, and null where a list or a map is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache, partial
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import orjson

from tiphys.api.base import MicroTime, Struct
from tiphys.machinery.time import format_micro_time, format_time

T = TypeVar("T", bound=Struct)

# Rewrites, in place, the times below a value made of plain JSON.
_Fixer = Callable[[Any], None]


def encode_object(obj: Struct) -> bytes:
    """The object as JSON, apiVersion and kind first when it is a kind."""
    value: dict[str, Any] = msgspec.to_builtins(obj, builtin_types=(datetime,), enc_hook=msgspec.json.decode)
    fix = _fixer(type(obj))
    if fix is not None:
        fix(value)
    kind = getattr(obj, "KIND", None)
    if kind is not None:
        value = {"apiVersion": getattr(obj, "API_VERSION", ""), "kind": kind, **value}
    return orjson.dumps(value)


def to_dict(obj: Struct) -> dict[str, Any]:
    """The object as plain JSON values, as `encode_object` writes it."""
    value: dict[str, Any] = orjson.loads(encode_object(obj))
    return value


@cache
def _decoder(cls: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(cls)


def decode_object(cls: type[T], data: bytes | memoryview) -> T:
    """An object of JSON. Raises msgspec.ValidationError (a ValueError) for what does not fit the type."""
    try:
        decoded: T = _decoder(cls).decode(data)
        return decoded
    except msgspec.ValidationError:
        # A nil slice or map of the server is null; only then is the slow way needed.
        return msgspec.json.decode(orjson.dumps(_without_nulls(orjson.loads(data))), type=cls)


def from_dict(cls: type[T], value: Any, *, strict: bool = True) -> T:
    """An object of plain JSON values. Raises msgspec.ValidationError.

    Without `strict`, text is taken where a number or a truth value belongs, as in what people write by hand.
    """
    data = msgspec.json.encode(value)
    return decode_object(cls, data) if strict else msgspec.json.decode(data, type=cls, strict=False)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


# Gives the plain form of a value in which times are still datetimes.
_Plain = Callable[[Any], Any]


@cache
def _fixer(cls: type) -> _Fixer | None:
    """The fixer of a struct; None when no time is below it."""
    hints = get_type_hints(cls, include_extras=True)
    steps = [(one.encode_name, step) for one in msgspec.structs.fields(cls) if (step := _step(hints[one.name]))]
    if not steps:
        return None

    def fix(value: Any) -> None:
        for name, step in steps:
            found = value.get(name)
            if found is not None:
                value[name] = step(found)

    return fix


def _step(hint: Any) -> _Plain | None:
    """How to write a value of this annotation; None when it holds no time."""
    if hint == MicroTime:
        return format_micro_time
    if hint is datetime:
        return format_time
    if isinstance(hint, type) and issubclass(hint, Struct):
        # A type that contains itself (a JSON schema) has no times.
        fixer = None if hint.__name__ == "JSONSchemaProps" else _fixer(hint)
        return None if fixer is None else partial(_in_place, fixer)
    arguments = [a for a in get_args(hint) if a is not type(None) and a is not Ellipsis]
    inner = _step(arguments[-1]) if arguments else None
    if inner is None:
        return None
    origin = get_origin(hint)
    if origin is tuple:
        return partial(_each_item, inner)
    return partial(_each_value, inner) if origin is Mapping else inner


def _in_place(fixer: _Fixer, value: Any) -> Any:
    fixer(value)
    return value


def _each_item(step: _Plain, values: Any) -> Any:
    return [step(value) for value in values]


def _each_value(step: _Plain, values: Any) -> Any:
    return {key: step(value) for key, value in values.items()}
