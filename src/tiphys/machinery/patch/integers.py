"""Numbers of an applied configuration as the server's integers hold them.

Server-side apply merges documents before it converts them to their types, and that conversion keeps the low bits of a
number too large instead of refusing it, as the JSON decoder of other writes does (observed of v1.36).
"""

from __future__ import annotations

from typing import Any, Final

from tiphys.machinery.patch.typed import child_shape, root_shape
from tiphys.machinery.schema import FieldSchema, TypeSchema

Object = dict[str, Any]

_BITS: Final = {"i": 32, "l": 64}
_LARGEST: Final = 2**63 - 1


def with_wrapped_integers(obj: Object, schema: TypeSchema) -> Object:
    """The object with numbers that its integer fields can hold; fractions and what is no number stay as they are."""
    out: Object = _wrapped(obj, root_shape(schema))
    return out


def _wrapped(value: Any, shape: FieldSchema) -> Any:
    if isinstance(value, dict) and shape.kind in "@{~":
        return {name: _wrapped(one, child_shape(shape, name)) for name, one in value.items()}
    if isinstance(value, list) and shape.items is not None:
        return [_wrapped(one, shape.items) for one in value]
    if shape.kind in _BITS and type(value) in (int, float):
        return _integer(value, _BITS[shape.kind])
    return value


def _integer(value: float, bits: int) -> float:
    if value != value // 1:
        return value
    whole = int(value)
    if not -_LARGEST - 1 <= whole <= _LARGEST:
        whole = -_LARGEST - 1  # a float too large for 64 bits becomes the smallest number
    half = 1 << (bits - 1)
    return (whole + half) % (2 * half) - half
