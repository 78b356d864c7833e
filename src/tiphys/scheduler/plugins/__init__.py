"""The in-tree plugins, in the order they run, with the weights of their scores. One behaviour a file.

Order matters: a node counts for the first filter that rejects it, so cheap and telling ones come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from tiphys.api.core.v1 import NodeAffinity as NodeAffinityRules
from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.api.policy.v1 import PodDisruptionBudget
from tiphys.api.storage.v1 import CSINode, StorageClass
from tiphys.client import Lister
from tiphys.machinery.time import parse_duration
from tiphys.scheduler.config import Profile
from tiphys.scheduler.dra.devices import devices_of
from tiphys.scheduler.framework.interface import Plugin
from tiphys.scheduler.handle import Handle
from tiphys.scheduler.plugins.default_binder import DefaultBinder
from tiphys.scheduler.plugins.default_preemption import DefaultPreemption
from tiphys.scheduler.plugins.dynamic_resources import BINDING_TIMEOUT, DynamicResources
from tiphys.scheduler.plugins.image_locality import ImageLocality
from tiphys.scheduler.plugins.inter_pod_affinity import InterPodAffinity
from tiphys.scheduler.plugins.node_affinity import NodeAffinity
from tiphys.scheduler.plugins.node_declared_features import NodeDeclaredFeatures
from tiphys.scheduler.plugins.node_name import NodeName
from tiphys.scheduler.plugins.node_ports import NodePorts
from tiphys.scheduler.plugins.node_resources_balanced_allocation import NodeResourcesBalancedAllocation
from tiphys.scheduler.plugins.node_resources_fit import (
    DEFAULT_RESOURCES,
    NodeResourcesFit,
    ResourceWeight,
    ShapePoint,
    strategy,
)
from tiphys.scheduler.plugins.node_unschedulable import NodeUnschedulable
from tiphys.scheduler.plugins.node_volume_limits import NodeVolumeLimits
from tiphys.scheduler.plugins.pod_topology_spread import SYSTEM_DEFAULTS, DefaultSelector, PodTopologySpread
from tiphys.scheduler.plugins.priority_sort import PrioritySort
from tiphys.scheduler.plugins.scheduling_gates import SchedulingGates
from tiphys.scheduler.plugins.taint_toleration import TaintToleration
from tiphys.scheduler.plugins.volume_binding import BIND_TIMEOUT, VolumeBinding
from tiphys.scheduler.plugins.volume_restrictions import VolumeRestrictions
from tiphys.scheduler.plugins.volume_zone import VolumeZone

Args = Mapping[str, Any]


class Making(NamedTuple):
    """What a plugin is made of."""

    handle: Handle
    default_selector: DefaultSelector
    args: Args  # of its pluginConfig, camelCase


class Entry(NamedTuple):
    weight: int
    make: Callable[[Making], Plugin]


def _resources(args: Args) -> tuple[ResourceWeight, ...]:
    given = tuple(ResourceWeight(one["name"], one.get("weight") or 1) for one in args.get("resources") or ())
    return given or DEFAULT_RESOURCES


def _fit(making: Making) -> Plugin:
    scoring = making.args.get("scoringStrategy") or {}
    ratio = scoring.get("requestedToCapacityRatio") or {}
    shape = [ShapePoint(point["utilization"], point["score"]) for point in ratio.get("shape") or ()]
    return NodeResourcesFit(
        scorer=strategy(scoring.get("type") or "LeastAllocated", shape),
        resources=_resources(scoring),
        ignored_resources=frozenset(making.args.get("ignoredResources") or ()),
        ignored_groups=frozenset(making.args.get("ignoredResourceGroups") or ()),
        served=devices_of(making.handle.informers).extended,
    )


def _node_affinity(making: Making) -> Plugin:
    added = making.args.get("addedAffinity")
    return NodeAffinity(added_affinity=msgspec.convert(added, NodeAffinityRules) if added else None)


def _spread(making: Making) -> Plugin:
    if making.args.get("defaultingType") != "List":
        return PodTopologySpread(default_selector=making.default_selector, defaults=SYSTEM_DEFAULTS)
    given = making.args.get("defaultConstraints") or ()
    defaults = tuple((one["topologyKey"], int(one["maxSkew"])) for one in given)
    return PodTopologySpread(default_selector=making.default_selector, defaults=defaults)


def _inter_pod_affinity(making: Making) -> Plugin:
    return InterPodAffinity(
        namespaces=making.handle.namespaces,
        hard_pod_affinity_weight=making.args.get("hardPodAffinityWeight", 1),
        ignore_preferred_terms_of_existing_pods=making.args.get("ignorePreferredTermsOfExistingPods", False),
    )


def _preemption(making: Making) -> Plugin:
    return DefaultPreemption(
        handle=making.handle,
        budgets=making.handle.informers.of(PodDisruptionBudget).lister,
        min_candidate_nodes_percentage=making.args.get("minCandidateNodesPercentage", 10),
        min_candidate_nodes_absolute=making.args.get("minCandidateNodesAbsolute", 100),
    )


def _dynamic_resources(making: Making) -> Plugin:
    given = making.args.get("bindingTimeout")
    return DynamicResources(making.handle, parse_duration(given) if given else BINDING_TIMEOUT)


def _claims(making: Making) -> Lister[PersistentVolumeClaim]:
    return making.handle.informers.of(PersistentVolumeClaim).lister


def _volumes(making: Making) -> Lister[PersistentVolume]:
    return making.handle.informers.of(PersistentVolume).lister


def _volume_binding(making: Making) -> Plugin:
    return VolumeBinding(making.handle, float(making.args.get("bindTimeoutSeconds", BIND_TIMEOUT)))


def _volume_limits(making: Making) -> Plugin:
    informers = making.handle.informers
    return NodeVolumeLimits(
        _claims(making), _volumes(making), informers.of(StorageClass).lister, informers.of(CSINode).lister
    )


DEFAULT_PLUGINS: Final[dict[str, Entry]] = {
    "SchedulingGates": Entry(0, lambda _: SchedulingGates()),
    "PrioritySort": Entry(0, lambda _: PrioritySort()),
    "NodeUnschedulable": Entry(0, lambda _: NodeUnschedulable()),
    "NodeName": Entry(0, lambda _: NodeName()),
    "TaintToleration": Entry(3, lambda _: TaintToleration()),
    "NodeAffinity": Entry(2, _node_affinity),
    "NodeDeclaredFeatures": Entry(0, lambda _: NodeDeclaredFeatures()),
    "NodePorts": Entry(0, lambda _: NodePorts()),
    "NodeResourcesFit": Entry(1, _fit),
    "VolumeRestrictions": Entry(0, lambda making: VolumeRestrictions(_claims(making))),
    "NodeVolumeLimits": Entry(0, _volume_limits),
    "VolumeBinding": Entry(0, _volume_binding),
    "VolumeZone": Entry(0, lambda making: VolumeZone(_claims(making), _volumes(making))),
    "DynamicResources": Entry(0, _dynamic_resources),
    "PodTopologySpread": Entry(2, _spread),
    "InterPodAffinity": Entry(2, _inter_pod_affinity),
    "DefaultPreemption": Entry(0, _preemption),
    "NodeResourcesBalancedAllocation": Entry(
        1, lambda making: NodeResourcesBalancedAllocation(resources=_resources(making.args))
    ),
    "ImageLocality": Entry(1, lambda _: ImageLocality()),
    "DefaultBinder": Entry(0, lambda making: DefaultBinder(making.handle.client)),
}


def make_plugins(
    profile: Profile,
    handle: Handle,
    default_selector: DefaultSelector,
    extra: Mapping[str, Entry] | None = None,
) -> list[tuple[Plugin, int]]:
    """The plugins of a profile with their weights; `extra` are out-of-tree ones it may enable by name.

    Raises ValueError for a name nobody knows.
    """
    registry = {**DEFAULT_PLUGINS, **(extra or {})}
    named = {name for point in profile.points.values() for name in (*dict(point.enabled), *point.disabled)}
    unknown = (named | set(profile.enabled) | set(profile.args) | profile.disabled) - set(registry) - {"*"}
    if unknown:
        raise ValueError(f"profile {profile.scheduler_name}: unknown plugins {', '.join(sorted(unknown))}")
    return [
        (
            registry[name].make(Making(handle, default_selector, profile.args.get(name, {}))),
            profile.enabled.get(name) or registry[name].weight,
        )
        for name in [*_everywhere(profile), *only_named(profile)]
    ]


def only_named(profile: Profile) -> list[str]:
    """The plugins that are at the extension points which name them and nowhere else."""
    everywhere = _everywhere(profile)
    named = dict.fromkeys(name for point in profile.points.values() for name, _ in point.enabled)
    return [name for name in named if name not in everywhere]


def _everywhere(profile: Profile) -> list[str]:
    names = [name for name in DEFAULT_PLUGINS if name in profile.enabled or not profile.disabled & {name, "*"}]
    return names + [name for name in profile.enabled if name not in names]
