"""Values at run time, and what equality means.

    int int   uint UInt   double float   bool bool   string str   bytes bytes   null None   list list   map dict
    timestamp datetime (aware)   duration timedelta   type CelType   optional Optional
    quantity Quantity   ip/cidr ipaddress   url Url   semver Semver   (tiphys.machinery.cel.kubernetes)

Lists that a schema calls a set or a map are `SetList` and `MapList`: their order does not matter to equality.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from tiphys.machinery.cel.errors import EvalError

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
UINT_MAX: Final = 2**64 - 1
_ABSENT: Final = object()


class UInt(int):
    """An unsigned integer of 64 bits."""

    __slots__ = ()


class CelType(str):
    """A type as a value: what `type(x)` gives."""

    __slots__ = ()


class SetList(list[Any]):
    """A list of unique items without an order."""

    __slots__ = ()


class MapList(list[Any]):
    """A list of objects told apart by `keys`, without an order."""

    __slots__ = ("keys",)
    keys: tuple[str, ...]

    @staticmethod
    def of(items: list[Any], keys: tuple[str, ...]) -> MapList:
        """The items of a list type map."""
        found = MapList(items)
        found.keys = keys
        return found

    def by_key(self) -> dict[str, Any]:
        """Items by the text of their keys."""
        return {repr([item.get(key) for key in self.keys]): item for item in self}


class Optional:
    """`optional.of(x)` and `optional.none()`."""

    __slots__ = ("_value",)

    def __init__(self, value: Any = _ABSENT) -> None:
        self._value = value

    @property
    def present(self) -> bool:
        """Whether there is a value."""
        return self._value is not _ABSENT

    @property
    def value(self) -> Any:
        """The value. EvalError without one."""
        if self._value is _ABSENT:
            raise EvalError("optional.none() dereference")
        return self._value


NONE: Final = Optional()
_NUMBERS: Final = (int, float)


def equal(a: Any, b: Any) -> bool:
    """`a == b`. Numbers of different types are compared by value; a bool is no number."""
    if a is b:
        return bool(a == a)  # NaN is not equal to itself
    kind, other = type(a), type(b)
    if kind is other and (kind is str or kind is int or kind is bool):
        return bool(a == b)
    if isinstance(a, bool) or isinstance(b, bool):
        return kind is other and a is b
    if isinstance(a, list):
        return isinstance(b, list) and _equal_lists(a, b)
    if isinstance(a, dict):
        return (
            isinstance(b, dict)
            and len(a) == len(b)
            and all(key in b and equal(value, b[key]) for key, value in a.items())
        )
    if isinstance(a, Optional):
        return isinstance(b, Optional) and a.present == b.present and (not a.present or equal(a.value, b.value))
    if isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS):
        return bool(a == b)
    return kind is other and bool(a == b)


def _equal_lists(a: list[Any], b: list[Any]) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, SetList) or isinstance(b, SetList):
        return all(any(equal(one, other) for other in b) for one in a)
    if isinstance(a, MapList):
        others = MapList.of(b, a.keys).by_key()
        return all(key in others and equal(item, others[key]) for key, item in a.by_key().items())
    return all(equal(one, other) for one, other in zip(a, b, strict=True))


def type_of(value: Any) -> CelType:
    """The type of a value."""
    for kind, name in _NAMES:
        if isinstance(value, kind):
            return CelType(name)
    if value is None:
        return CelType("null_type")
    return CelType(getattr(value, "cel_type", type(value).__name__))


_NAMES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "bool"),
    (UInt, "uint"),
    (int, "int"),
    (float, "double"),
    (CelType, "type"),
    (str, "string"),
    (bytes, "bytes"),
    (list, "list"),
    (dict, "map"),
    (datetime, "google.protobuf.Timestamp"),
    (timedelta, "google.protobuf.Duration"),
    (Optional, "optional_type"),
)


def checked_int(value: int) -> int:
    """An int that fits into 64 bits. EvalError else."""
    if not INT_MIN <= value <= INT_MAX:
        raise EvalError("integer overflow")
    return value


def checked_uint(value: int) -> UInt:
    """A uint that fits into 64 bits. EvalError else."""
    if not 0 <= value <= UINT_MAX:
        raise EvalError("unsigned integer overflow")
    return UInt(value)


def no_overload() -> EvalError:
    """The arguments have types the function does not take."""
    return EvalError("no such overload")
