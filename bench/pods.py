"""How long a pod takes from its creation to Running, seen by a watch.

    python -m bench.pods [--one-by-one 30] [--at-once 50] [--nodes 2] [--kubeconfig FILE] [--both-runtimes]

A busybox container that sleeps, from an image that is on the node. "scheduled": the watch shows a node; "Running": it
shows the phase; "deleted": from the deletion (no grace) to the pod's disappearance. Without --kubeconfig a cluster is
made and taken away.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from bench.clusters import cluster
from bench.report import ms, percentile, table
from tiphys.api.core.v1 import Container, Pod, PodSpec
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import Client, EventType, RestConfig
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName

if TYPE_CHECKING:
    from tests.e2e.kubelet.node import TestNode

STAGES = ("created", "scheduled", "Running", "deleted")


class Pods:
    """Makes pods and remembers when the watch showed what (seconds since the request)."""

    def __init__(self, client: Client, node: str = "") -> None:
        """`node`: where the pods go; "" leaves that to the scheduler."""
        self._client = client
        self._node = node
        self._begun: dict[str, float] = {}
        self._changed = asyncio.Condition()
        self.seen: dict[str, dict[str, float]] = defaultdict(dict)
        self.nodes: dict[str, str] = {}

    async def follow(self, resource_version: str) -> None:
        """Watch until cancelled."""
        async for event in self._client.watch(Pod, namespace="default", resource_version=resource_version):
            if event.type is EventType.BOOKMARK or event.object.metadata.name not in self._begun:
                continue
            now, pod = time.monotonic(), event.object
            name = pod.metadata.name
            stages = self.seen[name]
            if event.type is EventType.DELETED:
                stages["deleted"] = now - self._begun[name]
            else:
                self._note(stages, pod, now - self._begun[name])
            async with self._changed:
                self._changed.notify_all()

    def _note(self, stages: dict[str, float], pod: Pod, after: float) -> None:
        stages.setdefault("created", after)
        if pod.spec.node_name:
            stages.setdefault("scheduled", after)
            self.nodes[pod.metadata.name] = pod.spec.node_name
        if pod.status.phase == "Running":
            stages.setdefault("Running", after)

    async def create(self, name: str) -> None:
        """Create one pod and wait until it runs. Raises TimeoutError."""
        container = Container(name="c", image="busybox", command=("sleep", "3600"), image_pull_policy="IfNotPresent")
        spec = PodSpec(
            containers=(container,),
            termination_grace_period_seconds=0,
            node_name=self._node,
            automount_service_account_token=False if self._node else None,
        )
        self._begun[name] = time.monotonic()
        await self._client.create(Pod(metadata=ObjectMeta(name=name, namespace="default"), spec=spec))
        await self._until(name, "Running")

    async def delete(self, name: str) -> None:
        """Delete one pod and wait until it is gone."""
        self._begun[name] = time.monotonic()
        await self._client.delete(Pod, ObjectName("default", name), grace_period_seconds=0)
        await self._until(name, "deleted")

    async def _until(self, name: str, stage: str) -> None:
        async with asyncio.timeout(120), self._changed:
            await self._changed.wait_for(lambda: stage in self.seen[name])


def rows(label: str, pods: Pods, names: list[str]) -> list[list[str]]:
    """p50 and p99 of every stage."""
    found = []
    for stage in STAGES:
        values = [pods.seen[name][stage] for name in names]
        found.append([f"{label}, {stage}", ms(percentile(values, 0.5)), ms(percentile(values, 0.99)), ms(max(values))])
    return found


async def measure(kubeconfig: Path, one_by_one: int, at_once: int) -> None:
    async with Client(RestConfig.from_kubeconfig(kubeconfig), user_agent="bench") as client:
        await account(client)
        await run(client, Pods(client), one_by_one, at_once)


async def run(client: Client, pods: Pods, one_by_one: int, at_once: int) -> None:
    """Make and delete pods one at a time, then all at once, and print what it took."""
    listed = await client.list(Pod, namespace="default")
    watching = asyncio.ensure_future(pods.follow(listed.resource_version))
    try:
        await pods.create("warm")
        await pods.delete("warm")
        single = [f"one-{number}" for number in range(one_by_one)]
        for name in single:
            await pods.create(name)
        for name in single:
            await pods.delete(name)
        many = [f"many-{number}" for number in range(at_once)]
        begun = time.monotonic()
        await asyncio.gather(*(pods.create(name) for name in many))
        all_running = time.monotonic() - begun
        await asyncio.gather(*(pods.delete(name) for name in many))
    finally:
        watching.cancel()
    found = rows("one at a time", pods, single) if single else []
    found += rows(f"{at_once} at once", pods, many) if many else []
    table(["", "p50", "p99", "max"], found)
    spread = sorted([pods.nodes[name] for name in many].count(node) for node in set(pods.nodes.values()))
    print(f"  {at_once} at once: all Running after {all_running:.2f} s; on the nodes: {spread}")


async def compare(one_by_one: int, at_once: int) -> None:
    """The same kubelet and API server in one process, over each runtime: pods are bound to the node as they come."""

    async def work(node: TestNode) -> None:
        await run(node.client, Pods(node.client, node.name), one_by_one, at_once)

    await over_both_runtimes(work)


async def over_both_runtimes(work: Callable[[TestNode], Awaitable[None]]) -> None:
    """Do `work` with a node on our runtime, then with one on containerd, where this machine has that."""
    from tests.e2e.kubelet.containerd import Containerd, missing
    from tests.e2e.kubelet.node import running_node

    for label in ("our runtime", "containerd"):
        if label == "containerd" and missing():
            print(f"containerd: this machine lacks {', '.join(missing())}")
            continue
        print(f"## {label}")
        root = Path(tempfile.mkdtemp(prefix="tph-test-", dir="/tmp"))  # short: sockets lie in it
        try:
            other = Containerd(root / "c") if label == "containerd" else None
            async with running_node(root, containerd=other) as node:
                await work(node)
        finally:
            shutil.rmtree(root, ignore_errors=True)


async def account(client: Client) -> None:
    """Wait for the service account pods need."""
    from tiphys.api.core.v1 import ServiceAccount

    async with asyncio.timeout(30):
        while True:
            try:
                await client.get(ServiceAccount, ObjectName("default", "default"))
                return
            except StatusError:
                await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one-by-one", type=int, default=30)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--kubeconfig", type=Path, help="of a running cluster")
    parser.add_argument(
        "--both-runtimes", action="store_true", help="one node of ours, with our runtime and with containerd"
    )
    args = parser.parse_args()
    if args.both_runtimes:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(compare(args.one_by_one, args.at_once))
        return
    made = nullcontext(None) if args.kubeconfig else cluster(f"--nodes={args.nodes}", name="bn-pods")
    with made as running:
        kubeconfig = args.kubeconfig if running is None else running.kubeconfig
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(kubeconfig, args.one_by_one, args.at_once))


if __name__ == "__main__":
    main()
