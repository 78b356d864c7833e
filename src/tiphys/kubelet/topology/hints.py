"""Where one resource of a container could lie, and what several resources agree on. Pure.

```
 cpu     {0} preferred   {1} preferred   {0,1}
 gpu                     {1} preferred   {0,1}
 agreed                  {1} preferred
```
A hint is preferred when no narrower one could ever serve. The agreed hint is the intersection of one hint of each
resource: preferred ones before others, then narrow before wide (KEP-693).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Nodes = frozenset[int]


@dataclass(frozen=True, slots=True)
class Hint:
    """`nodes` None: anywhere."""

    nodes: Nodes | None
    preferred: bool


def combinations(nodes: Iterable[int]) -> Iterator[Nodes]:
    """Every set of NUMA nodes but the empty one, narrow ones first."""
    ordered = sorted(nodes)
    for width in range(1, len(ordered) + 1):
        yield from map(frozenset, itertools.combinations(ordered, width))


def hints_of(nodes: Iterable[int], could: Callable[[Nodes], bool], can: Callable[[Nodes], bool]) -> list[Hint]:
    """The hints of a resource: the sets that `can` serve now, preferred when as narrow as any that ever `could`."""
    sets = list(combinations(nodes))
    least = min((len(found) for found in sets if could(found)), default=0)
    return [Hint(found, len(found) == least) for found in sets if can(found)]


def merge(
    resources: Sequence[Sequence[Hint]], nodes: Nodes, distances: Mapping[int, tuple[int, ...]] | None = None
) -> Hint:
    """What the resources agree on. No hints at all for a resource: it can lie nowhere together with others.

    With `distances` (rows of the kernel's table) sets of equal width are taken by how close their nodes are.
    """
    needed = max((min((len(h.nodes) for h in hints if h.nodes), default=0) for hints in resources), default=0)
    best: Hint | None = None
    for chosen in itertools.product(*((hints or (Hint(None, False),)) for hints in resources)):
        common = nodes.intersection(*(hint.nodes for hint in chosen if hint.nodes is not None))
        if not common:
            continue
        told = {hint.nodes for hint in chosen if hint.nodes is not None}
        found = Hint(common, all(hint.preferred for hint in chosen) and len(told) <= 1)
        if best is None or _rank(found, needed, distances) < _rank(best, needed, distances):
            best = found
    return best or Hint(nodes, False)


def _rank(
    hint: Hint, needed: int, distances: Mapping[int, tuple[int, ...]] | None
) -> tuple[bool, int, float, list[int]]:
    """Sorts the better one first."""
    nodes = sorted(hint.nodes or ())
    # What is not preferred anyway had better be as wide as its widest resource needs.
    width = len(nodes) if hint.preferred else abs(len(nodes) - needed)
    return not hint.preferred, width, _spread(nodes, distances) if distances else 0.0, nodes


def _spread(nodes: Sequence[int], distances: Mapping[int, tuple[int, ...]]) -> float:
    """The mean distance between the nodes, themselves included."""
    rows = [distances[a][b] for a in nodes for b in nodes if a in distances and b < len(distances[a])]
    return sum(rows) / len(rows) if rows else 0.0
