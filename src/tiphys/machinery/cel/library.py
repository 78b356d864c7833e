"""The functions of the language itself: operators, conversions, strings, lists, sets, math.

Kubernetes' own are in `kubernetes.py`. Each takes values and raises EvalError; which types go with which is the
checker's business, so with dynamic values each looks at what it was given.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from tiphys.machinery.cel import kubernetes, strings, times
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.regex import compiled
from tiphys.machinery.cel.values import (
    INT_MAX,
    INT_MIN,
    NONE,
    UINT_MAX,
    CelType,
    Optional,
    SetList,
    UInt,
    checked_int,
    checked_uint,
    equal,
    no_overload,
    type_of,
)

Function = Callable[..., Any]


def _kind(value: Any) -> type:
    return bool if value is True or value is False else type(value)


def _add(a: Any, b: Any) -> Any:
    kind = _kind(a)
    if isinstance(a, list) and isinstance(b, list):
        if isinstance(a, SetList):
            return SetList([*a, *(one for one in b if not contained(one, a))])
        return [*a, *b]
    if isinstance(a, (datetime, timedelta)) and isinstance(b, (datetime, timedelta)):
        return times.add(a, b)
    if kind is not _kind(b):
        raise no_overload()
    if kind is int:
        return checked_int(a + b)
    if kind is UInt:
        return checked_uint(int(a) + int(b))
    if kind in (str, float, bytes):
        return a + b
    raise no_overload()


def _subtract(a: Any, b: Any) -> Any:
    if isinstance(a, (datetime, timedelta)) and isinstance(b, (datetime, timedelta)):
        return times.subtract(a, b)
    return _arithmetic(operator.sub)(a, b)


def _arithmetic(compute: Callable[[Any, Any], Any]) -> Function:
    def step(a: Any, b: Any) -> Any:
        kind = _kind(a)
        if kind is not _kind(b):
            raise no_overload()
        if kind is int:
            return checked_int(compute(a, b))
        if kind is UInt:
            return checked_uint(compute(int(a), int(b)))
        if kind is float:
            return compute(a, b)
        raise no_overload()

    return step


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, float) and isinstance(b, float):
        if b == 0:
            return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)
        return a / b
    return _whole(a, b, "division by zero", lambda x, y: abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1))


def _modulo(a: Any, b: Any) -> Any:
    return _whole(a, b, "modulus by zero", lambda x, y: abs(x) % abs(y) * (-1 if x < 0 else 1))


def _whole(a: Any, b: Any, zero: str, compute: Callable[[int, int], int]) -> Any:
    kind = _kind(a)
    if kind is not _kind(b) or kind not in (int, UInt):
        raise no_overload()
    if b == 0:
        raise EvalError(zero)
    value = compute(int(a), int(b))
    return checked_int(value) if kind is int else checked_uint(value)


def _negate(value: Any) -> Any:
    kind = _kind(value)
    if kind is int:
        return checked_int(-value)
    if kind is float:
        return -value
    raise no_overload()


def _not(value: Any) -> bool:
    if value is True or value is False:
        return not value
    raise no_overload()


def _ordered(compare: Callable[[Any, Any], bool]) -> Function:
    def step(a: Any, b: Any) -> bool:
        kind, other = _kind(a), _kind(b)
        if kind is not other and not (kind in _NUMBERS and other in _NUMBERS):
            raise no_overload()
        if kind not in _ORDERED:
            raise no_overload()
        return compare(a, b)

    return step


_NUMBERS: Final = (int, UInt, float)
_ORDERED: Final = (int, UInt, float, bool, str, bytes, datetime, timedelta)


def contained(item: Any, values: list[Any]) -> bool:
    """`item in values`."""
    return any(equal(item, one) for one in values)


def _in(item: Any, values: Any) -> bool:
    if isinstance(values, dict):
        return _key(item) in values
    if isinstance(values, list):
        return contained(item, values)
    raise no_overload()


def _key(key: Any) -> Any:
    if isinstance(key, (list, dict)):
        raise no_overload()
    return key


def _index(values: Any, key: Any) -> Any:
    if isinstance(values, Optional):
        return _optional_index(values, key)
    if isinstance(values, dict):
        if _key(key) not in values:
            raise EvalError(f"no such key: {key}")
        return values[key]
    if isinstance(values, list):
        if isinstance(key, bool) or not isinstance(key, (int, float)) or key != int(key):
            raise EvalError(f"unsupported index type '{type_of(key)}' in list")
        if not 0 <= key < len(values):
            raise EvalError(f"index out of bounds: {int(key)}")
        return values[int(key)]
    raise no_overload()


def _optional_index(values: Any, key: Any) -> Optional:
    if isinstance(values, Optional):
        if not values.present:
            return NONE
        values = values.value
    if isinstance(values, dict):
        return Optional(values[key]) if _key(key) in values else NONE
    if isinstance(values, list) and isinstance(key, int):
        return Optional(values[key]) if 0 <= key < len(values) else NONE
    raise no_overload()


def _size(value: Any) -> int:
    if isinstance(value, (str, bytes, list, dict)):
        return len(value)
    raise no_overload()


# --- conversions ----------------------------------------------------------------------------------
def _not_a(kind: str) -> EvalError:
    return EvalError(f"type conversion error from 'string' to '{kind}'")


def _to_int(value: Any) -> int:
    if isinstance(value, datetime):
        return math.floor(value.timestamp())
    if isinstance(value, float):
        if not INT_MIN <= value <= INT_MAX:
            raise EvalError("integer overflow")
        return int(value)
    if isinstance(value, str):
        try:
            return checked_int(int(value, 10))
        except ValueError:
            raise _not_a("int") from None
    if isinstance(value, int) and not isinstance(value, bool):
        return checked_int(int(value))
    raise no_overload()


def _to_uint(value: Any) -> UInt:
    if isinstance(value, float):
        if not 0 <= value <= UINT_MAX:
            raise EvalError("unsigned integer overflow")
        return UInt(value)
    if isinstance(value, str):
        try:
            return checked_uint(int(value, 10))
        except ValueError:
            raise _not_a("uint") from None
    if isinstance(value, int) and not isinstance(value, bool):
        return checked_uint(int(value))
    raise no_overload()


def _to_double(value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise _not_a("double") from None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise no_overload()


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in ("1", "t", "T", "TRUE", "true", "True"):
            return True
        if value in ("0", "f", "F", "FALSE", "false", "False"):
            return False
        raise _not_a("bool")
    raise no_overload()


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise no_overload()


# --- lists and sets -------------------------------------------------------------------------------
def _is_sorted(values: list[Any]) -> bool:
    less = _ordered(operator.le)
    return all(less(a, b) for a, b in pairwise(values))


def _sum(values: list[Any]) -> Any:
    if not values:
        return 0
    total = values[0]
    for one in values[1:]:
        total = _add(total, one)
    return total


def _extreme(name: str, compare: Callable[[Any, Any], bool]) -> Function:
    better = _ordered(compare)

    def step(values: list[Any]) -> Any:
        if not isinstance(values, list):
            raise no_overload()
        if not values:
            raise EvalError(f"{name} called on empty list")
        best = values[0]
        for one in values[1:]:
            if better(one, best):
                best = one
        return best

    return step


def _index_of(values: Any, wanted: Any, offset: int = 0) -> int:
    if isinstance(values, str):
        return strings.index_of(values, wanted, offset)
    return next((index for index, one in enumerate(values) if equal(one, wanted)), -1)


def _last_index_of(values: Any, wanted: Any, offset: int | None = None) -> int:
    if isinstance(values, str):
        return strings.last_index_of(values, wanted, offset)
    return next((index for index in range(len(values) - 1, -1, -1) if equal(values[index], wanted)), -1)


def _distinct(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for one in values:
        if not contained(one, found):
            found.append(one)
    return found


def _flatten(values: list[Any], depth: int = 1) -> list[Any]:
    if depth < 0:
        raise EvalError("level must be non-negative")
    out: list[Any] = []
    for one in values:
        if isinstance(one, list) and depth:
            out += _flatten(one, depth - 1)
        else:
            out.append(one)
    return out


def _unwrapped(values: list[Any]) -> list[Any]:
    return [one.value for one in values if one.present]


def _slice(values: list[Any], start: int, end: int) -> list[Any]:
    if start < 0 or end < 0:
        raise EvalError(f"cannot slice({start}, {end}), negative indexes not supported")
    if start > end:
        raise EvalError(f"cannot slice({start}, {end}), start index must be less than or equal to end index")
    if end > len(values):
        raise EvalError(f"cannot slice({start}, {end}), list is length {len(values)}")
    return values[start:end]


def _range(count: int) -> list[int]:
    if count > 1_000_000:
        raise EvalError(f"lists.range: size {count} is too large")
    return list(range(count))


def _sort(values: list[Any]) -> list[Any]:
    _is_sorted(values)  # refuses what has no order
    return sorted(values)


def _contains_all(values: list[Any], wanted: list[Any]) -> bool:
    return all(contained(one, values) for one in wanted)


def _reverse(value: Any) -> Any:
    return value[::-1]


def _of_non_zero(value: Any) -> Optional:
    return Optional(value) if value else NONE


def _matches(text: str, pattern: str) -> bool:
    return compiled(pattern).search(text) is not None


FUNCTIONS: Final[dict[str, Function]] = {
    "!_": _not,
    "-_": _negate,
    "_+_": _add,
    "_-_": _subtract,
    "_*_": _arithmetic(operator.mul),
    "_/_": _divide,
    "_%_": _modulo,
    "_<_": _ordered(operator.lt),
    "_<=_": _ordered(operator.le),
    "_>_": _ordered(operator.gt),
    "_>=_": _ordered(operator.ge),
    "@in": _in,
    "_[_]": _index,
    "_[?_]": _optional_index,
    "size": _size,
    "matches": _matches,
    "int": _to_int,
    "uint": _to_uint,
    "double": _to_double,
    "string": strings.text_of,
    "bytes": _to_bytes,
    "bool": _to_bool,
    "timestamp": times.timestamp,
    "duration": times.duration,
    "type": type_of,
    "dyn": lambda value: value,
    "optional.of": Optional,
    "optional.ofNonZeroValue": _of_non_zero,
    "optional.none": lambda: NONE,
    "optional.unwrap": _unwrapped,
    "strings.quote": strings.quoted,
    "lists.range": _range,
    "sets.contains": _contains_all,
    "sets.equivalent": lambda a, b: _contains_all(a, b) and _contains_all(b, a),
    "sets.intersects": lambda a, b: any(contained(one, b) for one in a),
    **kubernetes.FUNCTIONS,
}
METHODS: Final[dict[str, Function]] = {
    "size": _size,
    "matches": _matches,
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "isSorted": _is_sorted,
    "sum": _sum,
    "min": _extreme("min", operator.lt),
    "max": _extreme("max", operator.gt),
    "distinct": _distinct,
    "flatten": _flatten,
    "reverse": _reverse,
    "slice": _slice,
    "sort": _sort,
    "first": lambda values: Optional(values[0]) if values else NONE,
    "last": lambda values: Optional(values[-1]) if values else NONE,
    "unwrapOpt": _unwrapped,
    "hasValue": lambda value: value.present,
    "value": lambda value: value.value,
    **strings.METHODS,
    **times.METHODS,
    **kubernetes.METHODS,
}
TYPE: Final = CelType
