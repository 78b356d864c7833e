"""What was worked out about single nodes for pods of one kind, good until something of the node changes.

    kind (what the pod asks for)     row    version of the row    answer
    (cpu=3, priority 10)        ->     0    17                    evict pod a      is good
                                       4    3                     Insufficient cpu

The version of a row grows with every change of the node, its pods, and those nominated there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

import numpy as np

from tiphys.scheduler.nodetable import Mask, NodeTable

T = TypeVar("T")
MAX_KINDS: Final = 64


class RowAnswers(Generic[T]):
    """Those for one kind of pod."""

    def __init__(self, is_good: Callable[[T], bool]) -> None:
        self._is_good = is_good
        self._answers: dict[int, T] = {}
        self._versions = np.zeros(0, dtype=np.int64)
        self._good: Mask = np.zeros(0, dtype=np.bool_)

    def get(self, nodes: NodeTable, row: int, compute: Callable[[], T]) -> T:
        """`compute()`, which leaves the row as it is, or what it said before."""
        if len(self._versions) < nodes.width:
            missing = nodes.width - len(self._versions)
            self._versions = np.append(self._versions, np.full(missing, -1))
            self._good = np.append(self._good, np.zeros(missing, dtype=np.bool_))
        if self._versions[row] != nodes.row_versions[row]:
            answer = self._answers[row] = compute()
            self._versions[row], self._good[row] = nodes.row_versions[row], self._is_good(answer)
        return self._answers[row]

    def known_bad(self, nodes: NodeTable) -> Mask:
        """Rows whose answer is known and not good."""
        bad = np.zeros(nodes.width, dtype=np.bool_)
        known = min(len(self._versions), nodes.width)
        bad[:known] = (self._versions[:known] == nodes.row_versions[:known]) & ~self._good[:known]
        return bad


class Remembered(Generic[T]):
    """By kind; the kinds not asked for in a long time are forgotten."""

    def __init__(self, is_good: Callable[[T], bool]) -> None:
        self._is_good = is_good
        self._kinds: OrderedDict[Hashable, RowAnswers[T]] = OrderedDict()

    def of(self, kind: Hashable) -> RowAnswers[T]:
        answers = self._kinds.get(kind)
        if answers is None:
            answers = self._kinds[kind] = RowAnswers(self._is_good)
            if len(self._kinds) > MAX_KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(kind)
        return answers
