"""What calls cost when they run: what they read, a tenth of the characters, or the items they look at.

The estimates made before are in `callcosts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final


def size(value: Any) -> int:
    """What comparing a value costs: a tenth of its characters, items or entries, and 1 for all others."""
    return (len(value) + 9) // 10 if isinstance(value, (str, bytes, list, dict)) else 1


def _items_cost(values: Sequence[Any]) -> int:
    """Of functions that look at every item of their target; on a text they read it."""
    target = values[0]
    if not isinstance(target, list):
        return max(1, read(target))
    return sum(1 + read(one) for one in target)


def _in_cost(values: Sequence[Any]) -> int:
    return len(values[1]) if isinstance(values[1], list) else 1


COSTS: Final[dict[str, Callable[[Sequence[Any]], int]]] = {
    **dict.fromkeys(("isSorted", "sum", "min", "max", "indexOf", "lastIndexOf"), _items_cost),
    "@in": _in_cost,
    "contains": lambda values: max(1, read(values[0]) * read(values[1])),
    "startsWith": lambda values: max(1, read(values[1])),
    "endsWith": lambda values: max(1, read(values[1])),
    "sets.contains": lambda values: 1 + len(values[0]) * len(values[1]),
    "sets.intersects": lambda values: 1 + len(values[0]) * len(values[1]),
    "sets.equivalent": lambda values: 1 + 2 * len(values[0]) * len(values[1]),
    "matches": lambda values: max(1, (len(values[0]) + 10) // 10 * ((len(values[1]) + 3) // 4)),
    "lists.range": lambda values: 11 + max(0, values[0]),
}


def read(value: Any) -> int:
    """What reading a text costs: a tenth of its characters."""
    return (len(value) + 9) // 10 if isinstance(value, (str, bytes)) else 0
