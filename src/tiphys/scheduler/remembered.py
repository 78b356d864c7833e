"""What was worked out about single nodes for pods of one kind, good until something of the node changes.

kind (what the pod asks for)     row    version of the row, rivals       answer
(cpu=3, priority 10)        ->     0    (17, ())                         evict pod a
                                   4    (3, (uid of a rival,))           "Insufficient cpu"
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import PodInfo

T = TypeVar("T")
MAX_KINDS: Final = 64


class Answer(NamedTuple, Generic[T]):
    """`rivals` are uids of pods that were counted beside those of the row."""

    version: int
    rivals: tuple[str, ...]
    answer: T


class RowAnswers(Generic[T]):
    """Those for one kind of pod."""

    def __init__(self) -> None:
        self._by_row: dict[int, Answer[T]] = {}

    def get(self, nodes: NodeTable, row: int, rivals: Sequence[PodInfo], compute: Callable[[], T]) -> T:
        """`compute()`, which leaves the row as it is, or what it said before."""
        known, uids = self._by_row.get(row), tuple([rival.uid for rival in rivals])
        if known is None or known.version != nodes.row_versions[row] or known.rivals != uids:
            known = self._by_row[row] = Answer(nodes.row_versions[row], uids, compute())
        return known.answer


class Remembered(Generic[T]):
    """By kind; the kinds not asked for in a long time are forgotten."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, RowAnswers[T]] = OrderedDict()

    def of(self, kind: Hashable) -> RowAnswers[T]:
        answers = self._kinds.get(kind)
        if answers is None:
            answers = self._kinds[kind] = RowAnswers()
            if len(self._kinds) > MAX_KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(kind)
        return answers
