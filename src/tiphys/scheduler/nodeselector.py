"""Node selectors over the whole table: each requirement is decided once a label value, not once a node."""

from __future__ import annotations

from typing import Final

import numpy as np

from tiphys.api.core.v1 import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from tiphys.machinery.selectors import Requirement
from tiphys.scheduler.nodetable import Mask, NodeTable
from tiphys.scheduler.podinfo import PodInfo

OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!", "Gt": "gt", "Lt": "lt"}
NAME_FIELD: Final = "metadata.name"


def requirement_mask(nodes: NodeTable, requirement: NodeSelectorRequirement) -> Mask:
    """Rows in view whose label satisfies one requirement."""
    column = nodes.column(requirement.key)
    passes = np.zeros(column.width, dtype=np.bool_)  # by number of the value; 0: no such label
    if requirement.operator in ("In", "NotIn"):
        for value in requirement.values:
            if (number := column.values.get(value)) is not None:
                passes[number] = True
        if requirement.operator == "NotIn":
            passes = ~passes
    else:
        test = Requirement(requirement.key, OPERATORS[requirement.operator], requirement.values)
        passes[0] = test.matches({})
        for value, number in column.values.items():
            passes[number] = test.matches({requirement.key: value})
    matched: Mask = passes[nodes.label_ids(requirement.key)]
    return matched


def field_mask(nodes: NodeTable, requirement: NodeSelectorRequirement) -> Mask:
    """Rows in view that satisfy a requirement on metadata.name, the only field there is."""
    named = nodes.mask_of({nodes.row_of[name] for name in requirement.values if name in nodes.row_of})
    return named if requirement.operator == "In" else ~named


def term_mask(nodes: NodeTable, term: NodeSelectorTerm) -> Mask:
    """Rows that satisfy all of a term; a term without requirements matches nothing."""
    masks = [requirement_mask(nodes, requirement) for requirement in term.match_expressions]
    masks += [field_mask(nodes, requirement) for requirement in term.match_fields]
    if not masks:
        return np.zeros(nodes.width, dtype=np.bool_)
    every: Mask = np.logical_and.reduce(masks)
    return every


def selector_mask(nodes: NodeTable, selector: NodeSelector) -> Mask:
    """Rows that satisfy any term."""
    result = np.zeros(nodes.width, dtype=np.bool_)
    for term in selector.node_selector_terms:
        result |= term_mask(nodes, term)
    return result


def labels_mask(nodes: NodeTable, labels: dict[str, str]) -> Mask:
    """Rows that have all these labels."""
    result = np.ones(nodes.width, dtype=np.bool_)
    for key, value in labels.items():
        number = nodes.column(key).values.get(value, -1)
        result &= nodes.label_ids(key) == number
    return result


def required_selector(pod: PodInfo) -> NodeSelector | None:
    """The pod's required node affinity."""
    affinity = pod.pod.spec.affinity
    if affinity is None or affinity.node_affinity is None:
        return None
    return affinity.node_affinity.required_during_scheduling_ignored_during_execution


def required_mask(nodes: NodeTable, pod: PodInfo) -> Mask | None:
    """Rows that satisfy the pod's nodeSelector and required node affinity; None: it has neither."""
    if not pod.node_key:
        return None
    required = required_selector(pod)

    def compute() -> Mask:
        mask = labels_mask(nodes, dict(pod.pod.spec.node_selector))
        return mask if required is None else mask & selector_mask(nodes, required)

    if required is not None and any(term.match_fields for term in required.node_selector_terms):
        return compute()  # a DaemonSet's pods each name another node: nothing to share
    return nodes.remember(("node affinity", pod.node_key), compute)
