"""Where a daemon's pods belong, and the tolerations and affinity that bring them there. Pure."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tiphys.api.apps.v1 import DaemonSet
from tiphys.api.core.v1 import (
    Affinity,
    Node,
    NodeAffinity,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    Pod,
    PodSpec,
    Toleration,
)
from tiphys.controllers.common.nodeaffinity import fits
from tiphys.controllers.common.taints import (
    DISK_PRESSURE,
    MEMORY_PRESSURE,
    NETWORK_UNAVAILABLE,
    NO_EXECUTE,
    NO_SCHEDULE,
    NOT_READY,
    PID_PRESSURE,
    UNREACHABLE,
    UNSCHEDULABLE,
    tolerates,
)

_ADDED: Final = (
    Toleration(key=NOT_READY, operator="Exists", effect=NO_EXECUTE),
    Toleration(key=UNREACHABLE, operator="Exists", effect=NO_EXECUTE),
    Toleration(key=DISK_PRESSURE, operator="Exists", effect=NO_SCHEDULE),
    Toleration(key=MEMORY_PRESSURE, operator="Exists", effect=NO_SCHEDULE),
    Toleration(key=PID_PRESSURE, operator="Exists", effect=NO_SCHEDULE),
    Toleration(key=UNSCHEDULABLE, operator="Exists", effect=NO_SCHEDULE),
)
_NETWORK: Final = Toleration(key=NETWORK_UNAVAILABLE, operator="Exists", effect=NO_SCHEDULE)


def tolerations(spec: PodSpec) -> tuple[Toleration, ...]:
    """The pod's tolerations with those that every daemon has."""
    added = (*_ADDED, _NETWORK) if spec.host_network else _ADDED
    return (*spec.tolerations, *(one for one in added if one not in spec.tolerations))


def placement(daemon: DaemonSet, node: Node) -> tuple[bool, bool]:
    """(should a pod be started on the node, may one that runs there stay)."""
    spec = daemon.spec.template.spec
    if not fits(spec, node):
        return False, False
    tolerated = tolerations(spec)
    hard = [taint for taint in node.spec.taints if not any(tolerates(one, taint) for one in tolerated)]
    starts = not any(taint.effect in (NO_SCHEDULE, NO_EXECUTE) for taint in hard)
    return starts, not any(taint.effect == NO_EXECUTE for taint in hard)


def spec_for(spec: PodSpec, node: str) -> PodSpec:
    """The template's spec, bound to one node through its affinity: the scheduler places it, and nowhere else."""
    field = NodeSelectorRequirement(key="metadata.name", operator="In", values=(node,))
    affinity = spec.affinity or Affinity()
    node_affinity = affinity.node_affinity or NodeAffinity()
    required = node_affinity.required_during_scheduling_ignored_during_execution
    terms = required.node_selector_terms if required is not None else ()
    # The node's name replaces other fields; the labels a term asks for stay.
    bound = tuple(replace(term, match_fields=(field,)) for term in terms) or (NodeSelectorTerm(match_fields=(field,)),)
    node_affinity = replace(
        node_affinity, required_during_scheduling_ignored_during_execution=NodeSelector(node_selector_terms=bound)
    )
    return replace(spec, affinity=replace(affinity, node_affinity=node_affinity), tolerations=tolerations(spec))


def node_of(pod: Pod) -> str:
    """The node a daemon's pod is on, or is meant for."""
    if pod.spec.node_name:
        return pod.spec.node_name
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity is not None else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity is not None else None
    for term in required.node_selector_terms if required is not None else ():
        for field in term.match_fields:
            if field.key == "metadata.name" and field.values:
                return field.values[0]
    return ""
