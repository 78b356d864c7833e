"""What calls cost and how large their results may be, from the sizes of their arguments.

A tenth of the characters that are read; items that are compared; for a pattern the text times a quarter of the pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tiphys.machinery.cel.ast import Literal, Node
from tiphys.machinery.cel.types import Type

Size = float  # of characters, items or entries; infinite when nobody knows
PER_CHARACTER: Final = 0.1
PER_PATTERN_CHARACTER: Final = 0.25
LONGEST_FORMAT: Final = 32  # what the pattern of a named format counts as
AUTHORIZER_CHECK: Final = 350_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A call: its target and arguments, in this order, with their sizes and types."""

    nodes: Sequence[Node]
    sizes: Sequence[Size]
    types: Sequence[Type]
    item_size: Size  # of the items of the target, where the schema says it


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most a call costs besides its arguments, and the most its result holds; None: as its type says."""

    cost: float
    size: Size | None = None


def traversed(size: Size) -> float:
    """What reading so many characters costs."""
    return _up(size * PER_CHARACTER)


def _up(cost: float) -> float:
    return cost if math.isinf(cost) else float(math.ceil(cost - 1e-9))


def _times(a: float, b: float) -> float:
    return 0.0 if not a or not b else a * b


def _reads(index: int, *, keeps: bool = False) -> Callable[[Asked], Estimate]:
    """It reads one of its arguments; `keeps`: the result is no longer than that."""

    def estimate(asked: Asked) -> Estimate:
        size = asked.sizes[index]
        return Estimate(traversed(size), size if keeps else None)

    return estimate


def _contains(asked: Asked) -> Estimate:
    return Estimate(_times(traversed(asked.sizes[0]), traversed(asked.sizes[1])))


def _matches(asked: Asked) -> Estimate:
    return Estimate(_pattern_cost(asked))


def _pattern_cost(asked: Asked) -> float:
    pattern = _up(asked.sizes[1] * PER_PATTERN_CHARACTER)
    return _times(traversed(asked.sizes[0] + 1), pattern)


def _find(asked: Asked) -> Estimate:
    return Estimate(_pattern_cost(asked), asked.sizes[0])


def _compares(asked: Asked) -> Estimate:
    return Estimate(traversed(min(asked.sizes[0], asked.sizes[1])))


def _orders(asked: Asked) -> Estimate:
    return _compares(asked) if asked.types[0].kind in ("string", "bytes") else Estimate(1)


def _add(asked: Asked) -> Estimate:
    kind = asked.types[0].kind
    size = asked.sizes[0] + asked.sizes[1]
    if kind in ("string", "bytes"):
        return Estimate(traversed(size), size)
    return Estimate(1, size) if kind == "list" else Estimate(1)


def _in(asked: Asked) -> Estimate:
    return Estimate(1 if asked.types[1].kind == "map" else asked.sizes[1])


def _over_items(asked: Asked) -> Estimate:
    """Every item is looked at; of texts the characters, too. On a text it reads the text."""
    target = asked.types[0]
    if target.kind in ("string", "bytes"):
        return Estimate(traversed(asked.sizes[0]))
    each = 1.0
    if target.element.kind in ("string", "bytes"):
        each += traversed(asked.item_size)
    return Estimate(_times(asked.sizes[0], each))


def _number(node: Node) -> int | None:
    """A literal number."""
    return node.value if isinstance(node, Literal) and isinstance(node.value, int) else None


def _replace(asked: Asked) -> Estimate:
    text, old, new = asked.sizes[:3]
    if not isinstance(asked.nodes[1], Literal) or not old:
        size = _times(text + 1, new) + text  # between all characters
    else:
        size = text if new <= old else math.ceil(text / old) * new
    return Estimate(2 * traversed(text), size)


def _split(asked: Asked) -> Estimate:
    limit = _number(asked.nodes[2]) if len(asked.nodes) > 2 else None
    return Estimate(2 * traversed(asked.sizes[0]), asked.sizes[0] if limit is None or limit < 0 else limit)


def _range(asked: Asked) -> Estimate:
    count = _number(asked.nodes[0])
    size = math.inf if count is None else count
    return Estimate(size + 11, size)


def _slice(asked: Asked) -> Estimate:
    start, end = _number(asked.nodes[1]), _number(asked.nodes[2])
    size = asked.sizes[0] if start is None or end is None else max(end - start, 0)
    return Estimate(size + 11, size)


def _copies(asked: Asked) -> Estimate:
    return Estimate(asked.sizes[0] + 11, asked.sizes[0])


def _all_with_all(asked: Asked) -> Estimate:
    size = asked.sizes[0]
    return Estimate(2 * _times(size, size) + 11, _times(size, size))


def _sort(asked: Asked) -> Estimate:
    found = _all_with_all(asked)
    return Estimate(found.cost + 5 * asked.sizes[0], found.size)


def _address_in(extra: int) -> Callable[[Asked], Estimate]:
    def estimate(asked: Asked) -> Estimate:
        return Estimate(extra + (traversed(asked.sizes[1]) if asked.types[1].kind == "string" else 0))

    return estimate


def _validate(asked: Asked) -> Estimate:
    return Estimate(_up((asked.sizes[1] + 1) * PER_CHARACTER * LONGEST_FORMAT))


def _join(asked: Asked) -> Estimate:
    item, count = asked.item_size, asked.sizes[0]
    separator = asked.sizes[1] if len(asked.sizes) > 1 else 0
    size = _times(count, item) + _times(max(count - 1, 0), separator)
    return Estimate(traversed(size), size)


def _sets(asked: Asked) -> Estimate:
    return Estimate(_times(asked.sizes[0], asked.sizes[1]) + 1)


def _both_ways(asked: Asked) -> Estimate:
    return Estimate(2 * _times(asked.sizes[0], asked.sizes[1]) + 1)


def _fixed(cost: float) -> Callable[[Asked], Estimate]:
    return lambda asked: Estimate(cost)


CALLS: Final[dict[str, Callable[[Asked], Estimate]]] = {
    "_==_": _compares,
    "_!=_": _compares,
    **dict.fromkeys(("_<_", "_<=_", "_>_", "_>=_"), _orders),
    "_+_": _add,
    "@in": _in,
    "startsWith": _reads(1),
    "endsWith": _reads(1),
    "contains": _contains,
    "matches": _matches,
    "find": _find,
    "findAll": _find,
    **dict.fromkeys(("isSorted", "sum", "max", "min", "indexOf", "lastIndexOf"), _over_items),
    **dict.fromkeys(("lowerAscii", "upperAscii", "substring", "trim"), _reads(0, keeps=True)),
    "replace": _replace,
    "split": _split,
    "lists.range": _range,
    "slice": _slice,
    **dict.fromkeys(("reverse", "flatten"), _copies),
    "distinct": _all_with_all,
    "sort": _sort,
    "containsIP": _address_in(4),
    "containsCIDR": _address_in(7),
    "validate": _validate,
    "ip.isCanonical": lambda asked: Estimate(2 * traversed(asked.sizes[0])),
    **dict.fromkeys(("bytes", "strings.quote"), _reads(0, keeps=True)),
    "join": _join,
    "format": _reads(0),
    "url": _reads(0),
    **dict.fromkeys(("quantity", "isQuantity", "ip", "isIP", "cidr", "isCIDR"), _reads(0)),
    **dict.fromkeys(("semver", "isSemver"), _reads(0)),
    **dict.fromkeys(("sets.contains", "sets.intersects"), _sets),
    "sets.equivalent": _both_ways,
    "check": _fixed(AUTHORIZER_CHECK),
}
