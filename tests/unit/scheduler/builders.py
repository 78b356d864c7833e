"""Nodes, pods and a framework in a line each. Dictionaries are in the API's own form."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, cast

import msgspec

from tiphys.api.core.v1 import Node, Pod
from tiphys.base.clock import FakeClock
from tiphys.client import Client, Informers, RestConfig
from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.cache import Cache
from tiphys.scheduler.framework.diagnosis import Unschedulable
from tiphys.scheduler.framework.interface import CycleState, Plugin
from tiphys.scheduler.framework.runner import Framework
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.plugins import DEFAULT_PLUGINS, Making
from tiphys.scheduler.podinfo import PodInfo

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
_uids = itertools.count(1)


def make_node(
    name: str,
    cpu: str = "4",
    memory: str = "8Gi",
    pods: str = "110",
    *,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    unschedulable: bool = False,
    images: Sequence[Mapping[str, Any]] = (),
    more: Mapping[str, str] | None = None,
) -> Node:
    raw = {
        "metadata": {"name": name, "labels": {HOSTNAME: name, **(labels or {})}},
        "spec": {"taints": list(taints), "unschedulable": unschedulable},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": pods, **(more or {})},
            "images": list(images),
        },
    }
    return msgspec.convert(raw, Node)


def make_pod(
    name: str = "",
    requests: Mapping[str, str] | None = None,
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    containers: Sequence[Mapping[str, Any]] | None = None,
    status: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **spec: Any,
) -> PodInfo:
    number = next(_uids)
    name = name or f"pod-{number}"
    if containers is None:
        containers = [{"name": "c", "image": "app", "resources": {"requests": dict(requests or {})}}]
    raw = {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{number}",
            "labels": dict(labels or {}),
            **(metadata or {}),
        },
        "spec": {"containers": list(containers), "schedulerName": "default-scheduler", **spec},
        "status": dict(status or {}),
    }
    return PodInfo(msgspec.convert(raw, Pod))


class FixedNamespaces:
    """Namespaces by name, with their labels."""

    def __init__(self, labels: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._labels = dict(labels or {})

    def labels(self, name: str) -> Mapping[str, str]:
        return self._labels.get(name, {})

    def matching(self, selector: LabelSelector) -> list[str]:
        return [name for name, labels in self._labels.items() if selector.matches(labels)]


class NoTransport:
    """A client that only fills caches by hand never sends anything."""

    async def close(self) -> None:
        return


class PartialHandle:
    """As much of a Handle as plugins that only decide use; caches are filled through `informers`."""

    def __init__(self, namespaces: FixedNamespaces, informers: Informers | None = None) -> None:
        self.namespaces = namespaces
        self.client = None
        self.clock = FakeClock()
        self.writes = asyncio.Semaphore(16)
        self.informers = informers or make_informers()


def make_informers() -> Informers:
    """Informers nobody runs: tests put objects in with `replace`."""
    return Informers(Client(RestConfig(server="http://nowhere"), transport=cast("Any", NoTransport())))


def make_framework(
    *,
    namespaces: FixedNamespaces | None = None,
    default_selector: LabelSelector | None = None,
    args: Mapping[str, Mapping[str, Any]] | None = None,
    only: Sequence[str] = (),
    extra: Sequence[tuple[Plugin, int]] = (),
    informers: Informers | None = None,
) -> Framework:
    """The default plugins without preemption, or `only` some of them beside those a framework needs."""
    handle = cast("Any", PartialHandle(namespaces or FixedNamespaces(), informers))
    needed = {"PrioritySort", "DefaultBinder", *only}
    plugins = [
        (entry.make(Making(handle, lambda _: default_selector, (args or {}).get(name, {}))), entry.weight)
        for name, entry in DEFAULT_PLUGINS.items()
        if name != "DefaultPreemption" and (not only or name in needed)
    ]
    return Framework("default-scheduler", [*plugins, *extra])


def make_cache(*nodes: Node, placed: Mapping[str, Sequence[PodInfo]] | None = None, namespaces: Any = None) -> Cache:
    cache = Cache(NodeTable(namespaces.labels) if namespaces else NodeTable())
    for node in nodes:
        cache.set_node(node)
    for name, pods in (placed or {}).items():
        for pod in pods:
            cache.assume(pod, name)
    return cache


def feasible_nodes(framework: Framework, cache: Cache, pod: PodInfo) -> set[str] | str:
    """Names of the nodes the pod fits on, or the message that says why there is none."""
    nodes = cache.nodes
    found = framework.find_feasible(CycleState(), pod, nodes)
    if isinstance(found, Unschedulable):
        return found.message()
    return {nodes.name_of(row) for row in range(nodes.width) if found[row]}


def scores(framework: Framework, cache: Cache, pod: PodInfo) -> dict[str, float]:
    """The total score of each feasible node; a score that is the same for all plugins left out counts 0."""
    nodes, state = cache.nodes, CycleState()
    found = framework.find_feasible(state, pod, nodes)
    assert not isinstance(found, Unschedulable), found.message()
    total = framework.score(state, pod, nodes, found)
    return {nodes.name_of(row): 0.0 if total is None else float(total[row]) for row in range(nodes.width) if found[row]}


SEEDED = Random(7)
