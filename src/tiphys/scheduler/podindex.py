"""How many pods of which kind run on each node, kept up to date pod by pod.

    class (namespace, labels, terminating)          rows            counters
    ("shop", app=web, False)               ->  {0: 2, 4: 1}   [app=web in shop]
    ("shop", app=db, False)                ->  {1: 1}         [app in (db, web) in shop]

    counter [app=web in shop]   counts [2 0 0 0 1 ...]   one number a node

Pods of one controller are one class, so selectors are evaluated a class, not a pod. A counter is made when a
selection is first asked for and dropped when it has not been used for long.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.podinfo import AffinityTerm, PodInfo

MAX_COUNTERS: Final = 1024
MAX_REMEMBERED_MATCHES: Final = 4096

ClassKey = tuple[str, tuple[tuple[str, str], ...], bool]
Counts = npt.NDArray[np.float64]
NamespaceLabels = Callable[[str], Mapping[str, str]]


class Selection(NamedTuple):
    """Pods that match every term: in one of the namespaces (None: any) and selected. `terminating` ones too?"""

    terms: tuple[tuple[frozenset[str] | None, LabelSelector], ...]
    terminating: bool

    def matches(self, key: ClassKey) -> bool:
        namespace, labels, terminating = key
        if terminating and not self.terminating:
            return False
        have = dict(labels)
        return all(
            (namespaces is None or namespace in namespaces) and selector.matches(have)
            for namespaces, selector in self.terms
        )


class PodClass:
    """Pods that no selector can tell apart."""

    __slots__ = ("counters", "rows")

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.counters: list[Counts] = []


class TermKind(Enum):
    """What a pod's term asks of pods that come after it."""

    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti-affinity"
    PREFERRED_AFFINITY = "preferred affinity"
    PREFERRED_ANTI_AFFINITY = "preferred anti-affinity"


class TermGroup:
    """All pods that carry one and the same term: how many on each node."""

    __slots__ = ("counts", "pods", "term")

    def __init__(self, term: AffinityTerm, size: int) -> None:
        self.term = term
        self.pods = 0
        self.counts: Counts = np.zeros(size)


class PodIndex:
    """Counts by selection, and the terms of placed pods. Rows are those of the node table."""

    def __init__(self, size: int, namespace_labels: NamespaceLabels) -> None:
        self._size = size
        self._namespace_labels = namespace_labels
        self._classes: dict[ClassKey, PodClass] = {}
        self._counters: OrderedDict[Selection, Counts] = OrderedDict()
        self._groups: dict[TermKind, dict[AffinityTerm, TermGroup]] = {kind: {} for kind in TermKind}
        # Which groups select pods of a class; forgotten when the groups or the namespaces' labels change.
        self._matches: dict[tuple[TermKind, ClassKey], list[TermGroup]] = {}

    def add(self, pod: PodInfo, row: int) -> None:
        """A pod now runs on `row`."""
        pods = self._classes.get(pod.class_key)
        if pods is None:
            pods = self._classes[pod.class_key] = PodClass()
            pods.counters = [counts for selection, counts in self._counters.items() if selection.matches(pod.class_key)]
        pods.rows[row] = pods.rows.get(row, 0) + 1
        for counts in pods.counters:
            counts[row] += 1
        if pod.has_affinity_terms:
            self._change_terms(pod, row, 1)

    def remove(self, pod: PodInfo, row: int) -> None:
        """A pod no longer runs on `row`."""
        pods = self._classes[pod.class_key]
        pods.rows[row] -= 1
        if not pods.rows[row]:
            del pods.rows[row]
            if not pods.rows:
                del self._classes[pod.class_key]
        for counts in pods.counters:
            counts[row] -= 1
        if pod.has_affinity_terms:
            self._change_terms(pod, row, -1)

    def counts(self, selection: Selection) -> Counts:
        """Pods of the selection on each row. Shared: never changed by the caller."""
        counts = self._counters.get(selection)
        if counts is not None:
            self._counters.move_to_end(selection)
            return counts
        counts = self._counters[selection] = np.zeros(self._size)
        for key, pods in self._classes.items():
            if selection.matches(key):
                pods.counters.append(counts)
                for row, number in pods.rows.items():
                    counts[row] += number
        if len(self._counters) > MAX_COUNTERS:
            _, dropped = self._counters.popitem(last=False)
            for pods in self._classes.values():
                pods.counters = [kept for kept in pods.counters if kept is not dropped]
        return counts

    def terms_selecting(self, kind: TermKind, pod: PodInfo) -> list[TermGroup]:
        """The groups of placed pods whose term of this kind selects `pod`."""
        groups = self._groups[kind]
        if not groups:
            return []
        key = (kind, pod.class_key)
        found = self._matches.get(key)
        if found is None:
            labels = self._namespace_labels(pod.namespace)
            found = [group for group in groups.values() if group.term.matches(pod.namespace, labels, pod.labels)]
            if len(self._matches) >= MAX_REMEMBERED_MATCHES:
                self._matches.clear()
            self._matches[key] = found
        return found

    def has_terms(self, kind: TermKind) -> bool:
        return bool(self._groups[kind])

    def namespaces_changed(self) -> None:
        """A namespace's labels changed: what terms select by them is worked out again."""
        self._matches.clear()

    def resize(self, size: int) -> None:
        """Make room for more rows."""
        larger = {id(counts): np.append(counts, np.zeros(size - self._size)) for counts in self._counters.values()}
        for selection, counts in self._counters.items():
            self._counters[selection] = larger[id(counts)]
        for pods in self._classes.values():
            pods.counters = [larger[id(counts)] for counts in pods.counters]
        for groups in self._groups.values():
            for group in groups.values():
                group.counts = np.append(group.counts, np.zeros(size - self._size))
        self._size = size

    def _change_terms(self, pod: PodInfo, row: int, change: int) -> None:
        for kind, terms in (
            (TermKind.AFFINITY, pod.affinity),
            (TermKind.ANTI_AFFINITY, pod.anti_affinity),
            (TermKind.PREFERRED_AFFINITY, pod.preferred_affinity),
            (TermKind.PREFERRED_ANTI_AFFINITY, pod.preferred_anti_affinity),
        ):
            groups = self._groups[kind]
            for term in terms:
                group = groups.get(term)
                if group is None:
                    group = groups[term] = TermGroup(term, self._size)
                    self._forget_matches(kind)
                group.counts[row] += change
                group.pods += change
                if not group.pods:
                    del groups[term]
                    self._forget_matches(kind)

    def _forget_matches(self, kind: TermKind) -> None:
        for key in [key for key in self._matches if key[0] is kind]:
            del self._matches[key]
