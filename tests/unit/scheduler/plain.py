"""The rules of filtering and scoring once more, node by node in plain Python: what the arrays are checked against.

Slow and obvious on purpose; shares no code with the plugins but the parsing of pods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from tiphys.api.core.v1 import Node, NodeSelectorRequirement, Taint, Toleration
from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.podinfo import AffinityTerm, PodInfo, amounts

Placed = Mapping[str, Sequence[PodInfo]]
HOSTNAME = "kubernetes.io/hostname"
CORDON = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")


def tolerated(taint: Taint, tolerations: Sequence[Toleration]) -> bool:
    for one in tolerations:
        if one.effect not in ("", taint.effect):
            continue
        if one.operator == "Exists" and one.key in ("", taint.key):
            return True
        if one.operator in ("", "Equal") and one.key == taint.key and one.value == taint.value:
            return True
    return False


def requirement(labels: Mapping[str, str], rule: NodeSelectorRequirement) -> bool:
    value = labels.get(rule.key)
    match rule.operator:
        case "In":
            return value in rule.values
        case "NotIn":
            return value not in rule.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and value.isdigit() and int(value) > int(rule.values[0])
        case "Lt":
            return value is not None and value.isdigit() and int(value) < int(rule.values[0])
    raise AssertionError(rule.operator)


def selected(pod: PodInfo, node: Node) -> bool:
    labels = node.metadata.labels
    if any(labels.get(key) != value for key, value in pod.pod.spec.node_selector.items()):
        return False
    affinity = pod.pod.spec.affinity
    required = affinity.node_affinity if affinity else None
    rules = required.required_during_scheduling_ignored_during_execution if required else None
    if rules is None:
        return True
    return any(
        term.match_expressions and all(requirement(labels, rule) for rule in term.match_expressions)
        for term in rules.node_selector_terms
    )


def untainted(pod: PodInfo, node: Node) -> bool:
    hard = [taint for taint in node.spec.taints if taint.effect != "PreferNoSchedule"]
    return all(tolerated(taint, pod.pod.spec.tolerations) for taint in hard)


def fits(pod: PodInfo, node: Node, here: Sequence[PodInfo]) -> bool:
    allocatable = amounts(node.status.allocatable)
    if len(here) + 1 > allocatable["pods"]:
        return False
    return all(
        sum(other.requests.get(name, 0) for other in here) + amount <= allocatable.get(name, 0)
        for name, amount in pod.requests.items()
    )


def in_domain(nodes: Mapping[str, Node], placed: Placed, key: str, node: Node) -> list[PodInfo]:
    value = node.metadata.labels.get(key)
    if value is None:
        return []
    return [pod for name, pods in placed.items() if nodes[name].metadata.labels.get(key) == value for pod in pods]


def selects(term: AffinityTerm, pod: PodInfo) -> bool:
    return pod.namespace in term.namespaces and term.selector.matches(pod.labels)


def affine(pod: PodInfo, node: Node, nodes: Mapping[str, Node], placed: Placed) -> bool:
    for pods in placed.values():
        for other in pods:
            for term in other.anti_affinity:
                if selects(term, pod) and any(
                    other is one for one in in_domain(nodes, placed, term.topology_key, node)
                ):
                    return False
    for term in pod.anti_affinity:
        if any(selects(term, other) for other in in_domain(nodes, placed, term.topology_key, node)):
            return False
    if not pod.affinity:
        return True
    if any(term.topology_key not in node.metadata.labels for term in pod.affinity):
        return False

    def wanted(other: PodInfo) -> bool:
        return all(selects(term, other) for term in pod.affinity)

    met = all(
        any(wanted(other) for other in in_domain(nodes, placed, term.topology_key, node)) for term in pod.affinity
    )
    if met:
        return True
    none_anywhere = not any(
        wanted(other) and term.topology_key in nodes[name].metadata.labels
        for name, pods in placed.items()
        for other in pods
        for term in pod.affinity
    )
    return none_anywhere and wanted(pod)


def spread_rules(pod: PodInfo, action: str) -> list[Any]:
    return [rule for rule in pod.pod.spec.topology_spread_constraints if rule.when_unsatisfiable == action]


def counted(pod: PodInfo, selector: LabelSelector, pods: Sequence[PodInfo]) -> int:
    return sum(
        other.namespace == pod.namespace and not other.terminating and selector.matches(other.labels) for other in pods
    )


def even(pod: PodInfo, node: Node, nodes: Mapping[str, Node], placed: Placed) -> bool:
    rules = spread_rules(pod, "DoNotSchedule")
    for rule in rules:
        value = node.metadata.labels.get(rule.topology_key)
        if value is None:
            return False
        selector = LabelSelector.of_dict(rule.label_selector)
        sums: dict[str, int] = {}
        for name, other in nodes.items():
            labels = other.metadata.labels
            if any(one.topology_key not in labels for one in rules):
                continue
            if rule.node_affinity_policy != "Ignore" and not selected(pod, other):
                continue
            if rule.node_taints_policy == "Honor" and not untainted(pod, other):
                continue
            domain = labels[rule.topology_key]
            sums[domain] = sums.get(domain, 0) + counted(pod, selector, placed.get(name, ()))
        fewest = min(sums.values(), default=math.inf)
        if len(sums) < (rule.min_domains or 1):
            fewest = 0
        if sums.get(value, 0) + selector.matches(pod.labels) - fewest > rule.max_skew:
            return False
    return True


def feasible(pod: PodInfo, nodes: Mapping[str, Node], placed: Placed) -> set[str]:
    return {
        name
        for name, node in nodes.items()
        if (not node.spec.unschedulable or tolerated(CORDON, pod.pod.spec.tolerations))
        and untainted(pod, node)
        and selected(pod, node)
        and fits(pod, node, placed.get(name, ()))
        and even(pod, node, nodes, placed)
        and affine(pod, node, nodes, placed)
    }


# Scores


def least_allocated(pod: PodInfo, node: Node, here: Sequence[PodInfo]) -> int:
    allocatable = amounts(node.status.allocatable)
    total = 0
    for index, name in enumerate(("cpu", "memory")):
        used = int(sum(other.nonzero[index] for other in here) + pod.nonzero[index])
        there = int(allocatable[name])
        total += 0 if used > there else (there - used) * 100 // there
    return total // 2


def balanced(pod: PodInfo, node: Node, here: Sequence[PodInfo]) -> float:
    allocatable = amounts(node.status.allocatable)
    cpu, memory = (
        min(
            Fraction(1),
            Fraction(int(sum(other.requests.get(name, 0) for other in here) + pod.requests.get(name, 0)))
            / int(allocatable[name]),
        )
        for name in ("cpu", "memory")
    )
    return float((1 - abs(cpu - memory) / 2) * 100)


def soft_taints(pod: PodInfo, node: Node) -> int:
    tolerations = [one for one in pod.pod.spec.tolerations if one.effect in ("", "PreferNoSchedule")]
    return sum(taint.effect == "PreferNoSchedule" and not tolerated(taint, tolerations) for taint in node.spec.taints)


def preference(pod: PodInfo, node: Node) -> int:
    affinity = pod.pod.spec.affinity
    rules = affinity.node_affinity if affinity else None
    return sum(
        term.weight
        for term in (rules.preferred_during_scheduling_ignored_during_execution if rules else ())
        if all(requirement(node.metadata.labels, rule) for rule in term.preference.match_expressions)
    )


def pod_preference(pod: PodInfo, node: Node, nodes: Mapping[str, Node], placed: Placed) -> int:
    total = 0
    for sign, mine in ((1, pod.preferred_affinity), (-1, pod.preferred_anti_affinity)):
        for term in mine:
            total += (
                sign
                * term.weight
                * sum(selects(term, other) for other in in_domain(nodes, placed, term.topology_key, node))
            )
    for pods in placed.values():
        for other in pods:
            theirs = [(term, 1) for term in other.affinity]
            theirs += [(term, term.weight) for term in other.preferred_affinity]
            theirs += [(term, -term.weight) for term in other.preferred_anti_affinity]
            for term, weight in theirs:
                if selects(term, pod) and any(
                    other is one for one in in_domain(nodes, placed, term.topology_key, node)
                ):
                    total += weight
    return total


def by_highest(raw: Mapping[str, int], *, reverse: bool = False) -> dict[str, float]:
    highest = max(raw.values())
    if not highest:
        return dict.fromkeys(raw, 0)  # the same for all: what it is does not matter
    scaled: dict[str, float] = {name: value * 100 // highest for name, value in raw.items()}
    return {name: 100 - value for name, value in scaled.items()} if reverse else scaled


def by_span(raw: Mapping[str, int]) -> dict[str, float]:
    lowest, highest = min(raw.values()), max(raw.values())
    if lowest == highest:
        return dict.fromkeys(raw, 0)
    return {name: int(100 * ((value - lowest) / (highest - lowest))) for name, value in raw.items()}


def spread_scores(pod: PodInfo, names: set[str], nodes: Mapping[str, Node], placed: Placed) -> dict[str, float]:
    rules = spread_rules(pod, "ScheduleAnyway")
    scored = {name for name in names if all(rule.topology_key in nodes[name].metadata.labels for rule in rules)}
    if not rules or not scored:
        return dict.fromkeys(names, 0)
    raw = dict.fromkeys(scored, 0.0)
    for rule in rules:
        key, selector = rule.topology_key, LabelSelector.of_dict(rule.label_selector)
        size = len(scored) if key == HOSTNAME else len({nodes[name].metadata.labels[key] for name in scored})
        for name in scored:
            value = nodes[name].metadata.labels[key]
            if key == HOSTNAME:
                count = counted(pod, selector, placed.get(name, ()))
            else:
                count = sum(
                    counted(pod, selector, placed.get(other, ()))
                    for other, node in nodes.items()
                    if node.metadata.labels.get(key) == value
                    and all(one.topology_key in node.metadata.labels for one in rules)
                    and (rule.node_affinity_policy == "Ignore" or selected(pod, node))
                    and (rule.node_taints_policy != "Honor" or untainted(pod, node))
                )
            raw[name] += count * math.log(size + 2) + rule.max_skew - 1
    rounded = {name: round(value) for name, value in raw.items()}
    lowest, highest = min(rounded.values()), max(rounded.values())
    if not highest:
        return {name: 100 if name in scored else 0 for name in names}
    return {name: 100 * (highest + lowest - rounded[name]) // highest if name in scored else 0 for name in names}


def parts(pod: PodInfo, names: set[str], nodes: Mapping[str, Node], placed: Placed) -> dict[str, dict[str, float]]:
    """Each plugin's score of each feasible node, unweighted."""
    result: dict[str, dict[str, float]] = {
        "NodeResourcesFit": {name: least_allocated(pod, nodes[name], placed.get(name, ())) for name in names},
        "TaintToleration": by_highest({name: soft_taints(pod, nodes[name]) for name in names}, reverse=True),
        "NodeAffinity": by_highest({name: preference(pod, nodes[name]) for name in names}),
        "InterPodAffinity": by_span({name: pod_preference(pod, nodes[name], nodes, placed) for name in names}),
        "PodTopologySpread": spread_scores(pod, names, nodes, placed),
    }
    if {"cpu", "memory"} & set(pod.requests):
        result["NodeResourcesBalancedAllocation"] = {
            name: balanced(pod, nodes[name], placed.get(name, ())) for name in names
        }
    return result
