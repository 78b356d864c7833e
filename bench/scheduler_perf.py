"""The scheduler against a real API server: the workloads of upstream's scheduler_perf, under its names.

    python -m bench.scheduler_perf [--only NAME …] [--nodes 5000] [--scale 1.0] [--growth]

`tiphys scheduler` is a process of its own beside the API server (SQLite, TLS); nodes are objects without kubelets.
First the nodes and the pods that are there before, then the pods that are measured, made and bound at the same time:
pods/s is how many of them were bound in the time from the first create to the last binding. "attempt" is the 99th
percentile of scheduler_scheduling_attempt_duration_seconds over the whole run. The gate is what upstream's own test
demands of v1.36 on its machines. "events after" is how long after the last binding the last event was written. CPU is
per measured pod, the writing of all events included; "test" is this program, which makes the pods. `--scale` makes all
pods fewer (gates are for 1.0), and the nodes too where pods must fill them; `--growth` runs SchedulingBasic with more
and more nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.clusters import TIPHYS, Running, cluster
from bench.memory import cpu_seconds, memory
from bench.report import mib, ms, table
from bench.scheduler_workloads import WORKLOADS, Workload, scaled
from tiphys.client import Client, EventType, RestConfig
from tiphys.simulation.views import PODS

WRITERS: Final = 24
EVENTS_STILL_SECONDS: Final = 1.0
SETTLED: Final = 3.0  # seconds without a binding after which what is there before is taken to be done
GROWTH: Final = (100, 1000, 5000, 15000)
BUCKET: Final = re.compile(r'scheduler_scheduling_attempt_duration_seconds_bucket\{.*le="([^"]+)".*\} (\S+)')


class Bindings:
    """What the watch of all pods shows: who has a node."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.last = time.monotonic()
        self._changed = asyncio.Event()

    async def follow(self, client: Client, revision: str) -> None:
        """Watch until cancelled."""
        while True:
            async for batch in client.watch_batches(PODS, resource_version=revision):
                for event in batch:
                    revision = event.resource_version
                    if event.type is EventType.MODIFIED and event.object.spec.node_name:
                        self._note(event.object.metadata.name)

    def _note(self, name: str) -> None:
        if name not in self.bound:
            self.bound.add(name)
            self.last = time.monotonic()
            self._changed.set()

    async def reach(self, names: set[str], patience: float) -> None:
        """Wait until all of them are bound, or none was for so many seconds."""
        while not names <= self.bound and (left := self.last + patience - time.monotonic()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)


async def create(client: Client, path: str, objects: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> list[str]:
    """Make objects, several at once, in order; their names."""
    names: list[str] = []
    waiting = iter(objects)

    async def write() -> None:
        for obj in waiting:
            names.append(obj["metadata"]["name"])
            namespace = obj["metadata"].get("namespace")
            base, _, plural = path.rpartition("/")
            target = f"{base}/namespaces/{namespace}/{plural}" if namespace else path
            await client.request_json("POST", target, obj)

    await asyncio.gather(*(write() for _ in range(WRITERS)))
    return names


async def make_nodes(client: Client, workload: Workload, count: int) -> None:
    """The nodes, ready."""
    nodes = [workload.node(number) for number in range(count)]
    await create(client, "/api/v1/nodes", nodes)
    waiting = iter(nodes)

    async def untaint() -> None:
        for node in waiting:
            # A new node is tainted until a controller, of which there is none, sees that it is ready.
            taints = {"spec": {"taints": (node.get("spec") or {}).get("taints")}}
            path, kind = f"/api/v1/nodes/{node['metadata']['name']}", "application/merge-patch+json"
            await client.request_json("PATCH", path, taints, content_type=kind)

    await asyncio.gather(*(untaint() for _ in range(WRITERS)))


async def churn(client: Client, workload: Workload) -> None:
    """What goes on beside the measured pods."""
    number = 0
    while True:
        for path, obj in workload.churn(number):
            await client.request_json("POST", path, obj)
        number += 1
        await asyncio.sleep(workload.churn_interval)


# The scheduler, which says its metrics when it has ended.
COMMAND: Final = """
import sys
from tiphys.base.metrics import REGISTRY
from tiphys.cmd.main import main
main(sys.argv[1:])
print(REGISTRY.expose().decode())
"""


@contextmanager
def controllers(running: Running, names: str) -> Iterator[None]:
    """A controller manager with these controllers only; none, none."""
    if not names:
        yield
        return
    flags = (f"--kubeconfig={running.kubeconfig}", "--leader-elect=false", "--use-service-account-credentials=false")
    command = [*TIPHYS, "controller-manager", f"--controllers={names}", *flags]
    with (Path(running.kubeconfig).parent / "controllers.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


class Scheduler:
    """The scheduler process."""

    def __init__(self, running: Running) -> None:
        flags = ("--kubeconfig", str(running.kubeconfig), "--leader-elect=false")
        log = Path(running.kubeconfig).parent / "scheduler.log"
        command = [sys.executable, "-c", COMMAND, "scheduler", *flags]
        with log.open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> float | None:
        """End it; the 99th percentile of its attempts (s), None without any."""
        self._process.terminate()
        return quantile(self._process.communicate(timeout=60)[0], 0.99)


def quantile(metrics: str, share: float) -> float | None:
    """The quantile of the histogram of attempts, linear within a bucket."""
    counts: dict[float, float] = {}
    for edge, count in BUCKET.findall(metrics):
        counts[float(edge)] = counts.get(float(edge), 0.0) + float(count)
    edges = sorted(counts)
    if not edges or not counts[edges[-1]]:
        return None
    wanted, low, below = share * counts[edges[-1]], 0.0, 0.0
    for edge in edges:
        if counts[edge] >= wanted:
            inside = counts[edge] - below
            return low if edge == float("inf") else low + (edge - low) * ((wanted - below) / inside if inside else 1.0)
        low, below = edge, counts[edge]
    return None


async def last_event(client: Client) -> float:
    """When the number of events last grew, by the monotonic clock: all are written when it stands still."""
    count, when = -1, time.monotonic()
    while time.monotonic() - when < EVENTS_STILL_SECONDS:
        page = await client.request_json("GET", "/api/v1/events", query={"limit": "1"})
        now = len(page["items"]) + (page["metadata"].get("remainingItemCount") or 0)
        if now != count:
            count, when = now, time.monotonic()
        await asyncio.sleep(0.2)
    return when


async def drive(running: Running, process: Scheduler, workload: Workload, nodes: int) -> list[str]:
    """One workload; the cells of its row."""
    config = RestConfig.from_kubeconfig(running.kubeconfig)
    server = running.processes()["apiserver"]
    async with Client(config) as client, Client(config) as watcher:
        bindings = Bindings()
        revision = (await watcher.list(PODS)).resource_version
        watching = asyncio.ensure_future(bindings.follow(watcher, revision))
        await make_nodes(client, workload, nodes)
        for path, objects in workload.before(nodes):
            before = await create(client, path, objects)
            if path == "/api/v1/pods" and not workload.waits:
                bindings.last = time.monotonic()
                await bindings.reach(set(before), 30.0)
        churning = asyncio.ensure_future(churn(client, workload)) if workload.churn_interval else None
        await asyncio.sleep(1)
        cpu = cpu_seconds(process.pid), cpu_seconds(server), time.process_time()
        began = bindings.last = time.monotonic()
        names = set(await create(client, "/api/v1/pods", workload.measured()))
        await bindings.reach(names, 60.0)
        took = bindings.last - began
        done = len(names & bindings.bound)
        if churning is not None:
            churning.cancel()
        behind = max(0.0, await last_event(client) - bindings.last)
        mine, its, ours = cpu_seconds(process.pid) - cpu[0], cpu_seconds(server) - cpu[1], time.process_time() - cpu[2]
        watching.cancel()
        await asyncio.gather(*filter(None, (watching, churning)), return_exceptions=True)
    return [
        f"{done}/{len(names)}",
        f"{done / took:,.0f}" if took > 0 else "-",
        workload.gate,
        *(f"{spent / max(done, 1) * 1e6:.0f} µs" for spent in (mine, its, ours)),
        f"{behind:.1f} s",
        mib(memory(process.pid)[0]),
    ]


def run(workload: Workload, nodes: int) -> list[str]:
    """A new cluster and one workload."""
    with cluster("--api-only") as running:
        process = Scheduler(running)
        try:
            with controllers(running, workload.controllers):
                cells = uvloop.run(drive(running, process, workload, nodes))
        finally:
            attempt = process.stop()
    return [*cells, "-" if attempt is None else ms(attempt), f"{os.getloadavg()[0]:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names of workloads; default all")
    parser.add_argument("--nodes", type=int, default=0, help="instead of each workload's own number")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the pods")
    parser.add_argument("--growth", action="store_true", help="SchedulingBasic over 100 to 15,000 nodes")
    options = parser.parse_args()
    heads = [
        "",
        "bound",
        "pods/s",
        "gate",
        "scheduler CPU",
        "API server CPU",
        "test CPU",
        "events after",
        "scheduler",
        "attempt p99",
        "load",
    ]
    unknown = set(options.only) - {one.name for one in WORKLOADS}
    if unknown:
        sys.exit(f"no such workload: {', '.join(sorted(unknown))}")
    rows = []
    for workload in WORKLOADS:
        if options.only and workload.name not in options.only:
            continue
        if options.growth and workload.name != "SchedulingBasic":
            continue
        made = scaled(workload, options.scale)
        for nodes in GROWTH if options.growth else (options.nodes or made.nodes,):
            row = [f"{workload.name}, {nodes} nodes", *run(made, nodes)]
            print("  " + "  ".join(row), flush=True)
            rows.append(row)
    print()
    table(heads, rows)


if __name__ == "__main__":
    main()
