"""kill -9 of kubelets, runtimes, monitors and pause processes at random, while pods come and go.

A container whose monitor lives runs on; what ends is reported as it ended; nothing is left of pods that are gone.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.cluster import chaos
from tests.e2e.cluster.harness import Cluster
from tiphys.api.core.v1 import Pod
from tiphys.client import ApiConnectionError, Client, RestConfig
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

SECONDS = float(os.environ.get("TIPHYS_TEST_STORM_SECONDS", "8"))
PATIENCE = 90.0
# What a churning pod does, and the phase and exit code it has to end with.
ENDINGS = {
    "completes": ("sleep 0.4; exit 0", "Succeeded", 0),
    "fails": ("sleep 0.2; exit 3", "Failed", 3),
    "is deleted": ("trap 'exit 0' TERM; while true; do sleep 0.1; done", "", 0),
}


def document(name: str, namespace: str, script: str, **spec: Any) -> Pod:
    """A pod of one container with a mount and an address to lose."""
    container = {
        "name": "c",
        "image": "busybox:1.37",
        "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
    }
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
                "containers": [container],
                **spec,
            },
        },
        Pod,
    )


class Storm:
    """Kills, churns, and keeps the list of what turned out wrong."""

    def __init__(self, cluster: Cluster, client: Client, namespace: str) -> None:
        self.cluster = cluster
        self.client = client
        self.namespace = namespace
        self.until = time.monotonic() + SECONDS
        self.killed: Counter[str] = Counter()
        self.touched: set[str] = set()  # pods that lost a monitor or their pause process
        self.judged: Counter[str] = Counter()
        self.longest = 0.0  # seconds a pod took from its making to its being gone
        self.wrong: list[str] = []

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    async def kill(self) -> None:
        """One victim every few tenths of a second."""
        chance = random.Random(11)
        while not self.over:
            await asyncio.sleep(chance.uniform(0.2, 2))
            kind = chance.choice(("kubelet", "runtime", "monitor", "pause"))
            await asyncio.to_thread(self._kill, kind, chance)

    def _kill(self, kind: str, chance: random.Random) -> None:
        if kind in ("kubelet", "runtime"):
            pids = sorted(chaos.components(self.cluster.name, kind).values())
            victim = chance.choice(pids) if pids else None
        else:
            found = [target for target in chaos.targets(self.cluster.name) if target.kind == kind]
            target = chance.choice(found) if found else None
            victim = target.pid if target else None
            if target:
                self.touched.add(target.uid)
        if victim is not None:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.killed[kind] += 1

    async def create(self, pod: Pod) -> Pod:
        return await self.client.create(pod)

    async def get(self, name: str) -> Pod | None:
        try:
            return await self.client.get(Pod, ObjectName(self.namespace, name))
        except NotFoundError:
            return None

    async def delete(self, name: str) -> None:
        try:
            await self.client.delete(Pod, ObjectName(self.namespace, name))
        except NotFoundError:
            return

    async def when(self, name: str, phases: tuple[str, ...], what: str, *, settled: bool = False) -> Pod | None:
        """The pod once it is in one of the phases, and its container settled; what it was instead is wrong."""
        pod: Pod | None = None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                pod = await self.get(name)
            except (ApiConnectionError, StatusError):
                pass
            if pod is None:
                return None
            if pod.status.phase in phases and (not settled or is_settled(pod)):
                return pod
            await asyncio.sleep(0.1)
        self.wrong.append(f"{name} {what}: still {brief(pod)}")
        return None

    async def gone(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE
        pod: Pod | None = None
        while time.monotonic() < deadline:
            pod = await self.get(name)
            if pod is None:
                return
            await asyncio.sleep(0.1)
        self.wrong.append(f"{name} was deleted and is still there: {brief(pod)}")

    async def churn(self, number: int) -> None:
        """One pod after another: made, judged, deleted."""
        chance = random.Random(number)
        turn = 0
        while not self.over:
            turn += 1
            kind = chance.choice(sorted(ENDINGS))
            script, phase, code = ENDINGS[kind]
            name = f"churn-{number}-{turn}"
            shared = chance.random() < 0.3
            pod = document(name, self.namespace, script, restartPolicy="Never", shareProcessNamespace=shared)
            began = time.monotonic()
            uid = (await self.create(pod)).metadata.uid
            if phase:
                ended = await self.when(name, ("Succeeded", "Failed"), kind)
                if ended is not None and uid not in self.touched:
                    self.judge(ended, kind, phase, code)
            else:
                await self.when(name, ("Running", "Failed"), kind)
                await asyncio.sleep(chance.uniform(0, 1))
            await self.delete(name)
            await self.gone(name)
            self.judged[kind] += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def judge(self, pod: Pod, kind: str, phase: str, code: int) -> None:
        """A pod that no kill hit itself ends as it would have without the storm."""
        statuses = pod.status.container_statuses
        ended = statuses[0].state.terminated if statuses and statuses[0].state else None
        if pod.status.phase != phase or ended is None or ended.exit_code != code:
            self.wrong.append(f"{pod.metadata.name} {kind}: {brief(pod)}")


def is_settled(pod: Pod) -> bool:
    """Whether the containers run, or wait for nothing but their time: what is hit often is held back for minutes."""
    return all(
        status.ready or (status.state and status.state.waiting and status.state.waiting.reason == "CrashLoopBackOff")
        for status in pod.status.container_statuses
    )


def brief(pod: Pod | None) -> str:
    """A status in a line."""
    if pod is None:
        return "gone"
    states = [(s.name, s.restart_count, msgspec.to_builtins(s.state)) for s in pod.status.container_statuses]
    return f"{pod.status.phase} {pod.status.reason} {pod.status.message} on {pod.spec.node_name}: {states}"


def process_of(uid: str) -> dict[int, str]:
    """The processes of a pod and when each began."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if f"pod{uid}" in path.read_text():
                found[int(path.parent.name)] = (path.parent / "stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            continue
    return found


@pytest.mark.slow
async def test_a_storm_of_kills_on_the_nodes(cluster: Cluster, namespace: str) -> None:
    """For TIPHYS_TEST_STORM_SECONDS (8; ten minutes by hand)."""
    before = await asyncio.to_thread(chaos.holdings, cluster.name)
    async with Client(RestConfig.from_kubeconfig(cluster.kubeconfig), "storm") as client:
        storm = Storm(cluster, client, namespace)
        steady = [f"steady-{number}" for number in range(6)]
        for number, name in enumerate(steady):
            pod = document(name, namespace, "exec sleep 100000", shareProcessNamespace=number % 3 == 0)
            await storm.create(pod)
        uids, processes = {}, {}
        for name in steady:
            pod = await storm.when(name, ("Running",), "to start")
            assert pod is not None, storm.wrong
            uids[name] = pod.metadata.uid
            processes[name] = await asyncio.to_thread(process_of, pod.metadata.uid)
            assert processes[name]
        storm.until = time.monotonic() + SECONDS
        await asyncio.gather(storm.kill(), *(storm.churn(number) for number in range(4)))

        for name in steady:
            pod = await storm.when(name, ("Running",), "to run again", settled=True)
            if pod is None or uids[name] in storm.touched:
                continue
            after = await asyncio.to_thread(process_of, uids[name])
            if after != processes[name] or pod.status.container_statuses[0].restart_count:
                storm.wrong.append(f"{name} was not hit and is not the same: {processes[name]} {after} {brief(pod)}")
        await asyncio.gather(*(storm.delete(name) for name in steady))
        await asyncio.gather(*(storm.gone(name) for name in steady))
    left: Counter[str] = Counter()
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        left = await asyncio.to_thread(chaos.holdings, cluster.name) - before
        if not left:
            break
        await asyncio.sleep(0.1)
    print(
        f"killed {dict(storm.killed)}, {len(storm.touched)} pods hit; of {dict(storm.judged)} the slowest lived",
        end=" ",
    )
    print(f"{storm.longest:.1f} s; all clean {time.monotonic() - storm.until:.1f} s after the last kill")
    assert not storm.wrong, "\n".join(storm.wrong)
    assert not left, f"left behind after {dict(storm.killed)}: {left}"
