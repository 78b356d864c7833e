"""How many pods of which kind run on each node, kept up to date pod by pod.

    class (namespace, labels, terminating)          rows            counters
    ("shop", app=web, False)               ->  {0: 2, 4: 1}   [app=web in shop]
    ("shop", app=db, False)                ->  {1: 1}         [app in (db, web) in shop]

    counter [app=web in shop]   counts [2 0 0 0 1 ...]   one number a node

Pods of one controller are one class, so selectors are evaluated a class, not a pod. A counter is made when a
selection is first asked for and dropped when it has not been used for long. Classes and counters find each other by
places, so that neither looks at all of the others:

    class ("shop", app=web, tier=a)   is at   ("shop", app=web)  ("shop", tier=a)  ("shop", any)  (any, app=web)  ...
    counter [app=web in shop]         is at   ("shop", app=web)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.podinfo import AffinityTerm, PodInfo

MAX_COUNTERS: Final = 1024
MAX_REMEMBERED_MATCHES: Final = 4096

ClassKey = tuple[str, tuple[tuple[str, str], ...], bool]
Place = tuple[str | None, tuple[str, str] | None]  # a namespace and a label; None: any
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

    def choices(self) -> Iterator[list[Place]]:
        """The ways to put it in places such that every class it matches is in exactly one of them."""
        yield [(None, None)]
        for namespaces, selector in self.terms:
            within: Iterable[str | None] = (None,) if namespaces is None else namespaces
            yield [(namespace, None) for namespace in within]
            for one in selector.requirements:
                if one.operator in ("=", "==", "in"):
                    yield [(namespace, (one.key, value)) for namespace in within for value in {*one.values}]


def places(key: ClassKey) -> Iterator[Place]:
    """Every place that pods of a class are in."""
    namespace, labels, _ = key
    yield (namespace, None)
    yield (None, None)
    for label in labels:
        yield (namespace, label)
        yield (None, label)


class PodClass:
    """Pods that no selector can tell apart."""

    __slots__ = ("counters", "key", "rows")

    def __init__(self, key: ClassKey) -> None:
        self.key = key
        self.rows: dict[int, int] = {}
        self.counters: list[Counter] = []


class Counter:
    """The pods of one selection: how many on each row."""

    __slots__ = ("counts", "places", "selection")

    def __init__(self, selection: Selection, at: list[Place], size: int) -> None:
        self.selection = selection
        self.places = at
        self.counts: Counts = np.zeros(size)


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
        self._classes_at: dict[Place, dict[ClassKey, PodClass]] = {}
        self._counters: OrderedDict[Selection, Counter] = OrderedDict()
        self._counters_at: dict[Place, dict[Selection, Counter]] = {}
        self._groups: dict[TermKind, dict[AffinityTerm, TermGroup]] = {kind: {} for kind in TermKind}
        # Which groups select pods of a class; forgotten when the groups or the namespaces' labels change.
        self._matches: dict[tuple[TermKind, ClassKey], list[TermGroup]] = {}

    def add(self, pod: PodInfo, row: int) -> None:
        """A pod now runs on `row`."""
        pods = self._classes.get(pod.class_key)
        if pods is None:
            pods = self._add_class(pod.class_key)
        pods.rows[row] = pods.rows.get(row, 0) + 1
        for counter in pods.counters:
            counter.counts[row] += 1
        if pod.has_affinity_terms:
            self._change_terms(pod, row, 1)

    def remove(self, pod: PodInfo, row: int) -> None:
        """A pod no longer runs on `row`."""
        pods = self._classes[pod.class_key]
        pods.rows[row] -= 1
        if not pods.rows[row]:
            del pods.rows[row]
            if not pods.rows:
                self._drop_class(pods)
        for counter in pods.counters:
            counter.counts[row] -= 1
        if pod.has_affinity_terms:
            self._change_terms(pod, row, -1)

    def counts(self, selection: Selection) -> Counts:
        """Pods of the selection on each row. Shared: never changed by the caller."""
        counter = self._counters.get(selection)
        if counter is not None:
            self._counters.move_to_end(selection)
            return counter.counts
        counter = self._add_counter(selection)
        if len(self._counters) > MAX_COUNTERS:
            self._drop_counter(self._counters.popitem(last=False)[1])
        return counter.counts

    def _add_class(self, key: ClassKey) -> PodClass:
        pods = self._classes[key] = PodClass(key)
        for place in places(key):
            self._classes_at.setdefault(place, {})[key] = pods
            for selection, counter in self._counters_at.get(place, {}).items():
                if selection.matches(key):
                    pods.counters.append(counter)
        return pods

    def _drop_class(self, pods: PodClass) -> None:
        del self._classes[pods.key]
        for place in places(pods.key):
            there = self._classes_at[place]
            del there[pods.key]
            if not there:
                del self._classes_at[place]

    def _add_counter(self, selection: Selection) -> Counter:
        at = min(selection.choices(), key=lambda choice: sum(len(self._classes_at.get(one, ())) for one in choice))
        counter = self._counters[selection] = Counter(selection, at, self._size)
        for place in at:
            self._counters_at.setdefault(place, {})[selection] = counter
        for pods in self._classes_there(at):
            if selection.matches(pods.key):
                pods.counters.append(counter)
                for row, number in pods.rows.items():
                    counter.counts[row] += number
        return counter

    def _drop_counter(self, counter: Counter) -> None:
        for place in counter.places:
            there = self._counters_at[place]
            del there[counter.selection]
            if not there:
                del self._counters_at[place]
        for pods in self._classes_there(counter.places):
            pods.counters = [kept for kept in pods.counters if kept is not counter]

    def _classes_there(self, at: list[Place]) -> Iterable[PodClass]:
        return chain.from_iterable(self._classes_at.get(place, {}).values() for place in at)

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
        for counter in self._counters.values():
            counter.counts = np.append(counter.counts, np.zeros(size - self._size))
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
