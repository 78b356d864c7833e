"""Sets of CPUs as the kernel writes them: `0-2,5` (cpuset(7), list format)."""

from __future__ import annotations

from collections.abc import Iterable


def parse(text: str) -> frozenset[int]:
    """The numbers of a list. Raises ValueError."""
    found: set[int] = set()
    for part in text.strip().split(","):
        if not part:
            continue
        first, dash, last = part.partition("-")
        low, high = int(first), int(last if dash else first)
        if high < low or low < 0:
            raise ValueError(f"{part!r} is no range of CPUs")
        found.update(range(low, high + 1))
    return frozenset(found)


def show(cpus: Iterable[int]) -> str:
    """The shortest list of these numbers."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges)
