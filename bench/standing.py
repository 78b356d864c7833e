"""What pods that merely stand cost a node: CPU of its processes at rest, memory a pod beside the container's own.

    python -m bench.standing [--pods 100] [--settle 20] [--seconds 30] [--both-runtimes]

Without --both-runtimes a cluster of one node, every component a process of its own; with it one kubelet and API server
in this process, over our runtime (here too) and over containerd in turn. "then": after the pods stood for --settle
seconds; CPU is the share of one core over the --seconds after that, with nobody asking for anything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from bench.clusters import cluster
from bench.memory import cpu_seconds, memory
from bench.pods import Pods, account, over_both_runtimes
from bench.report import mib, table
from tiphys.api.core.v1 import Pod
from tiphys.client import Client, RestConfig

if TYPE_CHECKING:
    from tests.e2e.kubelet.node import TestNode

CONTAINER = "sleep"  # what the pods run; its memory is the container's own


def names() -> dict[int, str]:
    """Pid → name of every process of this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                found[int(entry.name)] = (entry / "comm").read_text().strip()
    return found


def brought(before: Mapping[int, str]) -> tuple[Counter[str], Counter[str]]:
    """(how many, their PSS in bytes) of the processes that came since `before`, by name."""
    count: Counter[str] = Counter()
    pss: Counter[str] = Counter()
    for pid, name in names().items():
        if before.get(pid) != name:
            with suppress(OSError, KeyError):  # a kernel thread has no memory; others may just have ended
                pss[name] += memory(pid)[0]
                count[name] += 1
    return count, pss


async def measure(client: Client, node: str, processes: Mapping[str, int], args: argparse.Namespace) -> None:
    """Make the pods, let them stand, print what they cost, and take them away."""
    pods = Pods(client, node)
    listed = await client.list(Pod, namespace="default")
    watching = asyncio.ensure_future(pods.follow(listed.resource_version))
    try:
        await pods.create("warm")
        await pods.delete("warm")
        others = names()
        empty = {name: memory(pid)[0] for name, pid in processes.items()}
        many = [f"stand-{number}" for number in range(args.pods)]
        begun = time.monotonic()
        await asyncio.gather(*(pods.create(name) for name in many))
        made = time.monotonic() - begun
        await asyncio.sleep(args.settle)
        report(args.pods, processes, empty, brought(others), await at_rest(processes, args.seconds))
        begun = time.monotonic()
        await asyncio.gather(*(pods.delete(name) for name in many))
        print(
            f"  {args.pods} pods at once: all Running after {made:.2f} s, gone after {time.monotonic() - begun:.2f} s"
        )
    finally:
        watching.cancel()


async def at_rest(processes: Mapping[str, int], seconds: float) -> dict[str, float]:
    """The share of a core each process takes."""
    before = {name: cpu_seconds(pid) for name, pid in processes.items()}
    begun = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - begun
    return {name: (cpu_seconds(pid) - before[name]) / took for name, pid in processes.items()}


def report(
    pods: int,
    processes: Mapping[str, int],
    empty: Mapping[str, int],
    came: tuple[Counter[str], Counter[str]],
    cpu: Mapping[str, float],
) -> None:
    """One line a process, one a kind of process that the pods brought, and their sum without the containers."""
    lines, total = [], 0
    for name, pid in processes.items():
        now = memory(pid)[0]
        total += now - empty[name]
        lines.append([name, f"{cpu[name]:.1%}", mib(empty[name]), mib(now), kib_a_pod(now - empty[name], pods)])
    count, pss = came
    for name, number in sorted(count.items()):
        if number >= pods // 2:
            lines.append([f"{number} × {name}", "", "", mib(pss[name]), kib_a_pod(pss[name], pods)])
            total += pss[name] if name != CONTAINER else 0
    lines.append(["a pod, beside the container's own", "", "", "", kib_a_pod(total, pods)])
    table(["process", "CPU at rest", "PSS before", "then", "a pod"], lines)


def kib_a_pod(size: int, pods: int) -> str:
    return f"{size / pods / 1024:.0f} KiB"


async def in_a_cluster(args: argparse.Namespace) -> None:
    with cluster("--nodes=1", name="bn-standing") as running:
        async with Client(RestConfig.from_kubeconfig(running.kubeconfig), user_agent="bench") as client:
            await account(client)
            processes = {
                name.replace("bn-standing-", "node "): pid
                for name, pid in running.processes().items()
                if name != "supervisor"
            }
            await measure(client, "", processes, args)


async def over_both(args: argparse.Namespace) -> None:
    async def work(node: TestNode) -> None:
        if node.containerd is None:
            processes = {"kubelet, API server, runtime": os.getpid()}
        else:
            processes = {"kubelet, API server": os.getpid(), "containerd": node.containerd.pid}
        await measure(node.client, node.name, processes, args)

    await over_both_runtimes(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--settle", type=float, default=20, help="seconds the pods stand before the measure")
    parser.add_argument("--seconds", type=float, default=30, help="seconds of the measure")
    parser.add_argument("--both-runtimes", action="store_true", help="one kubelet over our runtime and over containerd")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(over_both(args) if args.both_runtimes else in_a_cluster(args))


if __name__ == "__main__":
    main()
