"""A large cluster on simulated nodes: how fast it comes up, and what its API feels like meanwhile.

    python -m bench.simulation [--nodes 1000] [--pods 10000] [--deployments 20]

The real API server, controllers and scheduler; the nodes live in the API alone. "start" is from the moment the watch
shows a pod to the moment it shows it Ready. Single gets and whole lists are asked for all the while by another client.
Kubernetes' objectives: 99 % of single requests within 1 s, of whole lists within 30 s, of pod starts within 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.clusters import Running, cluster
from bench.memory import cpu_seconds, memory
from bench.report import mib, ms, percentile, table
from tiphys.api.apps.v1 import Deployment
from tiphys.api.core.v1 import Node
from tiphys.client import Client, EventType, RestConfig
from tiphys.machinery.meta import ObjectName
from tiphys.simulation.views import PODS


class Starts:
    """What the watch of all pods showed."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self.ready: dict[str, float] = {}  # uid → seconds from seen to Ready
        self.gone = 0
        self._changed = asyncio.Event()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for it."""
        while not reached():
            self._changed.clear()
            await self._changed.wait()

    async def follow(self, client: Client, revision: str) -> None:
        """Watch until cancelled."""
        while True:
            async for event in client.watch(PODS, resource_version=revision):
                revision = event.resource_version
                if event.type is EventType.BOOKMARK:
                    continue
                uid, now = event.object.metadata.uid, time.monotonic()
                self._seen.setdefault(uid, now)
                condition = event.object.condition("Ready")
                if condition is not None and condition.status == "True" and uid not in self.ready:
                    self.ready[uid] = now - self._seen[uid]
                self.gone += event.type is EventType.DELETED
                self._changed.set()


class Latencies:
    """A client that reads one node, and now and then everything."""

    def __init__(self) -> None:
        self.gets: list[float] = []
        self.lists: list[float] = []

    async def run(self, client: Client) -> None:
        """Ask until cancelled."""
        turn = 0
        while True:
            began = time.monotonic()
            await client.get(Node, ObjectName("", f"simulated-{turn % 100 + 1:05d}"))
            self.gets.append(time.monotonic() - began)
            turn += 1
            if turn % 50 == 0:
                began = time.monotonic()
                await client.request_bytes("GET", "/api/v1/pods")
                self.lists.append(time.monotonic() - began)
            await asyncio.sleep(0.05)


def deployment(number: int, replicas: int, version: str) -> dict[str, Any]:
    labels = {"app": f"web-{number}"}
    container = {"name": "c", "image": f"app:{version}", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}
    return {
        "metadata": {"name": f"web-{number}", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


async def measure(running: Running, nodes: int, pods: int, deployments: int) -> None:
    config = RestConfig.from_kubeconfig(Path(running.kubeconfig))
    each = pods // deployments
    pods = each * deployments
    async with Client(config) as client, Client(config) as other, Client(config) as third:
        starts, latencies = Starts(), Latencies()
        revision = (await client.list(PODS)).resource_version
        tasks = [
            asyncio.ensure_future(starts.follow(client, revision)),
            asyncio.ensure_future(latencies.run(other)),
        ]
        cpu = {name: cpu_seconds(pid) for name, pid in running.processes().items()}
        began = time.monotonic()
        for number in range(deployments):
            await third.create(msgspec.convert(deployment(number, each, "1"), Deployment))
        await starts.until(lambda: len(starts.ready) >= pods)
        up = time.monotonic() - began
        first = list(starts.ready.values())
        starts.ready.clear()
        began = time.monotonic()
        for number in range(deployments):
            patch = {"spec": {"template": {"spec": deployment(number, each, "2")["spec"]["template"]["spec"]}}}
            await third.patch(Deployment, ObjectName("default", f"web-{number}"), patch)
        await starts.until(lambda: starts.gone >= pods)
        rolled = time.monotonic() - began
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    rows = [
        [f"{pods} pods Ready", f"{up:.1f} s", f"{pods / up:.0f}/s"],
        ["pod start p50 / p99", ms(percentile(first, 0.5)), ms(percentile(first, 0.99))],
        [f"rolling update of {pods} pods", f"{rolled:.1f} s", f"{pods / rolled:.0f}/s"],
        ["get a node p50 / p99", ms(percentile(latencies.gets, 0.5)), ms(percentile(latencies.gets, 0.99))],
        ["list all pods p50 / max", ms(percentile(latencies.lists, 0.5)), ms(max(latencies.lists, default=0.0))],
    ]
    table(["", "", ""], rows)
    found = []
    for name, pid in running.processes().items():
        pss, own = memory(pid)
        found.append([name, f"{cpu_seconds(pid) - cpu[name]:.0f} s", mib(pss), mib(own)])
    table(["process", "CPU", "PSS", "own"], found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=10000)
    parser.add_argument("--deployments", type=int, default=20)
    options = parser.parse_args()
    began = time.monotonic()
    with cluster("--control-plane-only", "--simulated-nodes", str(options.nodes)) as running:
        took = time.monotonic() - began
        print(f"  {options.nodes} nodes: {took:.1f} s, {options.nodes / took:.0f}/s with the start of the cluster")
        uvloop.run(measure(running, options.nodes, options.pods, options.deployments))


if __name__ == "__main__":
    main()
