"""Counting pods by topology domain: nodes with the same value of a label are one domain.

label_ids   [1 1 2 0 2]      node 3 lacks the label
counts      [2 0 1 5 3]      pods on each node
sums        [0 2 4]          by number of the value; number 0 (no label) is no domain
sums[ids]   [2 2 4 0 4]      what each node sees of its domain
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.handle import Namespaces
from tiphys.scheduler.nodetable import Ids, NodeTable, Numbers
from tiphys.scheduler.podindex import Selection
from tiphys.scheduler.podinfo import AffinityTerm


def domain_sums(nodes: NodeTable, label: str, counts: Numbers) -> Numbers:
    """The sum of `counts` (over all rows) in each domain, by number of the value."""
    width = nodes.column(label).width
    sums = weighted_sums(nodes.all_label_ids(label), counts, width)
    sums[0] = 0.0
    return sums


def weighted_sums(ids: Ids, weights: Numbers, width: int) -> Numbers:
    """The sum of the weights of each id below `width`."""
    return np.bincount(ids, weights, minlength=width).astype(np.float64, copy=False)


def selection_of(terms: Iterable[AffinityTerm], namespaces: Namespaces) -> Selection:
    """The pods, terminating ones too, that all terms select."""
    return Selection(tuple((_namespaces_of(term, namespaces), term.selector) for term in terms), True)


def pod_counts(nodes: NodeTable, selection: Selection) -> Numbers:
    """Pods of a selection on each of all rows."""
    return nodes.pods.counts(selection)[nodes.all_rows]


def in_namespace(namespace: str, selector: LabelSelector) -> Selection:
    """Pods of one namespace that are not about to go."""
    return Selection(((frozenset((namespace,)), selector),), False)


def _namespaces_of(term: AffinityTerm, namespaces: Namespaces) -> frozenset[str] | None:
    if term.namespace_selector is None:
        return term.namespaces
    if term.namespace_selector.empty:
        return None
    return term.namespaces | frozenset(namespaces.matching(term.namespace_selector))
