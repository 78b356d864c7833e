"""How long one scheduling decision takes: the whole scheduling cycle, without the API.

    python bench/scheduler_decide.py [--nodes 5000] [--pods 2000]

Each line: a kind of pod, the median and p99 of deciding and assuming one, and decisions a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from random import Random
from typing import Any, cast

import msgspec

from tiphys.api.core.v1 import Node, Pod
from tiphys.base.clock import FakeClock
from tiphys.client import Client, Informers, RestConfig
from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.cache import Cache
from tiphys.scheduler.config import Profile
from tiphys.scheduler.framework.diagnosis import Unschedulable
from tiphys.scheduler.framework.interface import CycleState
from tiphys.scheduler.framework.runner import Framework, best_row
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.plugins import DEFAULT_PLUGINS, Making
from tiphys.scheduler.podinfo import PodInfo

ZONE, HOSTNAME = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
APP = {"matchLabels": {"app": "a"}}


class NoNamespaces:
    def labels(self, _name: str) -> dict[str, str]:
        return {}

    def matching(self, _selector: LabelSelector) -> list[str]:
        return []


class FakeHandle:
    """What the plugins measured here use of a handle."""

    namespaces = NoNamespaces()
    client = writes = None
    clock = FakeClock()

    def __init__(self) -> None:
        # Never run: volumes are looked up in empty caches.
        self.informers = Informers(Client(RestConfig(server="http://nowhere"), transport=cast("Any", None)))


def make_node(number: int) -> Node:
    name = f"node-{number}"
    labels = {ZONE: f"zone-{number % 3}", HOSTNAME: name, "disk": "ssd" if number % 2 else "hdd"}
    allocatable = {"cpu": "32", "memory": "256Gi", "pods": "110"}
    return msgspec.convert({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}}, Node)


def pods(spec: dict[str, Any], prefix: str) -> Iterator[PodInfo]:
    container = {"name": "c", "image": "pause", "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}
    number = 0
    while True:
        number += 1
        name = f"{prefix}-{number}"
        raw = {
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "a"}},
            "spec": {"containers": [container], **spec},
        }
        yield PodInfo(msgspec.convert(raw, Pod))


def anti(label: str) -> dict[str, Any]:
    return {"labelSelector": APP, "topologyKey": label}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "node affinity": {"nodeSelector": {"disk": "ssd"}},
    "topology spread (zone)": {
        "topologySpreadConstraints": [
            {"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": APP}
        ]
    },
    "preferred spread (host and zone)": {
        "topologySpreadConstraints": [
            {"maxSkew": 5, "topologyKey": label, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": APP}
            for label in (HOSTNAME, ZONE)
        ]
    },
    "pod affinity (zone)": {
        "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [anti(ZONE)]}}
    },
    "preferred pod affinity (host)": {
        "affinity": {
            "podAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": anti(HOSTNAME)}]
            }
        }
    },
    "pod anti-affinity (host)": {
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [anti(HOSTNAME)]}}
    },
    "unschedulable": {"nodeSelector": {"disk": "none"}},
}


def framework() -> Framework:
    skipped = {"DefaultPreemption"}
    making = Making(cast("Any", FakeHandle()), lambda _: None, {})
    plugins = [(entry.make(making), entry.weight) for name, entry in DEFAULT_PLUGINS.items() if name not in skipped]
    return Framework(Profile().scheduler_name, plugins)


def measure(kind: str, spec: dict[str, Any], nodes: int, count: int) -> None:
    cache = Cache(NodeTable())
    for number in range(nodes):
        cache.set_node(make_node(number))
    profile, random, times, scheduled = framework(), Random(0), [], 0
    for pod, _ in zip(pods(spec, "pod"), range(count), strict=False):
        start = time.perf_counter()
        state = CycleState()
        feasible = profile.find_feasible(state, pod, cache.nodes)
        if not isinstance(feasible, Unschedulable):
            row = best_row(profile.score(state, pod, cache.nodes, feasible), feasible, random)
            cache.assume(pod, cache.nodes.name_of(row))
            scheduled += 1
        else:
            feasible.message()
        times.append(time.perf_counter() - start)
    times.sort()
    p50, p99 = times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6
    rate = len(times) / sum(times)
    line = f"{kind:<34} p50 {p50:7.0f} µs   p99 {p99:7.0f} µs   {rate:8,.0f}/s   scheduled {scheduled}/{count}"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=2000)
    args = parser.parse_args()
    print(f"{args.nodes} nodes, {args.pods} pods of each kind")
    for kind, spec in KINDS.items():
        measure(kind, spec, args.nodes, args.pods)


if __name__ == "__main__":
    main()
