"""Whether a node satisfies a pod's nodeName, nodeSelector and required node affinity. Pure.

https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tiphys.api.core.v1 import Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec


def fits(spec: PodSpec, node: Node) -> bool:
    """Whether the pod may be on the node as far as its own wishes go."""
    if spec.node_name and spec.node_name != node.metadata.name:
        return False
    if not spec.node_selector.items() <= node.metadata.labels.items():
        return False
    affinity = spec.affinity.node_affinity if spec.affinity is not None else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity is not None else None
    return required is None or any(_term(term, node) for term in required.node_selector_terms)


def _term(term: NodeSelectorTerm, node: Node) -> bool:
    """All requirements of a term hold; an empty term matches nothing."""
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.metadata.name}
    return _all(term.match_expressions, node.metadata.labels) and _all(term.match_fields, fields)


def _all(requirements: Sequence[NodeSelectorRequirement], values: Mapping[str, str]) -> bool:
    return all(_holds(requirement, values.get(requirement.key)) for requirement in requirements)


def _holds(requirement: NodeSelectorRequirement, value: str | None) -> bool:
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" if value is not None and len(requirement.values) == 1:
            try:
                have, bound = int(value), int(requirement.values[0])
            except ValueError:
                return False
            return have > bound if requirement.operator == "Gt" else have < bound
    return False
