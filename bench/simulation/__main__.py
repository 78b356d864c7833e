"""A large cluster on simulated nodes: brought up, put through the scale tests, held against Kubernetes' objectives.

    python -m bench simulation -- [--nodes 1000] [--pods 10000] [--phases pods,rolling] [--budget 45] [--results FILE]

The real API server, controllers and scheduler, made by `tiphys up`; the nodes live in the API alone. Phases: nodes,
pods (Deployments of 1,000 to 5 pods), starts (20 pods a second in the full cluster), rolling, zone, jobs, services,
namespaces, deletion; each ends with a check of the exact state. Results are written after every phase; an interrupt or
the end of the budget shows what there is. The exit status is the number of phases that failed.

Objectives: 99 % of requests for one object within 1 s, of lists within 30 s, of starts of pods within 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from bench.clusters import Running, cluster, free_ports, tiphys
from bench.simulation.phases import Found, Phases, Sizes
from bench.simulation.results import Phase, Results, probed, remaining, served, used, worked
from bench.simulation.rig import Rig, Stuck
from bench.simulation.standing import QUOTA, fill, prepare
from bench.simulation.workloads import SIZES, plan, shares
from tiphys.client import ApiConnectionError
from tiphys.machinery.errors import StatusError

NAMES = ("nodes", "pods", "starts", "rolling", "zone", "jobs", "services", "namespaces", "deletion")


async def one(rig: Rig, phase: Phase, work: Callable[[Found], Awaitable[None]]) -> None:
    """Run one phase and fill in what it found, also when it does not come to its end."""
    found = Found()
    before, usage = await rig.metrics(), rig.usage.now()
    breaks, errors = len(rig.pods.breaks), len(rig.probe.errors)
    rig.probe.forget()
    began = time.monotonic()
    try:
        await work(found)
        phase.state = "done" if not found.problems else "failed"
    except (Stuck, StatusError, ApiConnectionError) as error:
        phase.state = "failed"
        found.problems.append(str(error) or repr(error))
    except asyncio.CancelledError:
        phase.state = "interrupted"
        raise
    finally:
        phase.seconds, phase.load = time.monotonic() - began, os.getloadavg()[0]
        phase.figures, phase.problems = found.figures, found.problems
        phase.problems += [f"the watch of pods broke: {why}" for why in rig.pods.breaks[breaks:]]
        phase.problems += [f"a request of the probe failed: {why}" for why in rig.probe.errors[errors:][:5]]
        phase.use = used(usage, rig.usage.now())
        phase.latencies = [*found.latencies, *probed(rig.probe.waits)]
    after = await rig.metrics()
    phase.latencies += served(before["apiserver"], after["apiserver"])
    for name in ("controller-manager", "simulator"):
        if name in before and name in after:
            phase.controllers += worked(before[name], after[name])
    phase.problems += [f"{name} ended and was started again: {rig.last_words(name)}" for name in rig.usage.again()]
    if phase.problems and phase.state == "done":
        phase.state = "failed"


async def measure(running: Running, ports: dict[str, int], options: argparse.Namespace, results: Results) -> None:
    """Every phase that is asked for and for which there is time."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: task.cancel() if task else None)
    rig = Rig(running, ports, options.nodes, options.list_every, options.ends)
    phases = Phases(rig, sizes_of(options))
    async with rig.working():
        for name, work in phases.table().items():
            if name not in options.phases:
                continue
            phase = results.begin(name)
            if remaining(options.ends) < 0:
                phase.state = "skipped"
                phase.problems.append("the time is over")
                continue
            try:
                await one(rig, phase, work)
            finally:
                results.keep()
                results.show(phase)
            if name == "pods" and len(rig.pods.ready) < options.pods:
                print("  without its pods there is nothing to test")
                return


def stand(running: Running, options: argparse.Namespace) -> None:
    """Write the pods into the datastore, while the cluster is down, and start it again."""
    sets = plan(options.pods, shares(options.sizes))
    state = Path(running.status()["stateDir"])

    async def make() -> None:
        rig = Rig(running, {}, options.nodes, 0.0, options.ends)
        async with rig.working():
            await prepare(rig, sets)

    uvloop.run(make())
    tiphys("down", "--name", running.name)
    began = time.monotonic()
    number = uvloop.run(fill(state, sets, options.nodes))
    print(f"  {number} pods written: {time.monotonic() - began:.1f} s", flush=True)
    began = time.monotonic()
    tiphys("up", "--name", running.name)
    print(f"  the cluster is up with them: {time.monotonic() - began:.1f} s", flush=True)


def sizes_of(options: argparse.Namespace) -> Sizes:
    """What is asked for; what is not said follows from the number of pods."""
    pods: int = options.pods
    return Sizes(
        pods=pods,
        sizes=shares(options.sizes),
        standing=options.standing,
        starts=options.starts,
        rolling=min(options.rolling if options.rolling is not None else 10_000, pods),
        zone=options.zone,
        lost_seconds=options.lost_seconds,
        jobs=options.jobs if options.jobs is not None else max(10, min(1000, pods // 100)),
        completions=options.completions,
        services=options.services if options.services is not None else max(10, min(5000, pods // 20)),
        namespaces=options.namespaces if options.namespaces is not None else max(10, min(2000, pods // 50)),
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=10000)
    text = "begin with pods that stand there: they are written into the datastore, not brought up"
    parser.add_argument("--standing", action="store_true", help=text)
    parser.add_argument("--phases", default=",".join(NAMES), help="which of them")
    parser.add_argument("--sizes", default=SIZES, help=f"replicas of Deployments=share of the pods ({SIZES})")
    parser.add_argument("--starts", type=int, default=400, help="pods one after another, 20 a second (400)")
    parser.add_argument("--rolling", type=int, help="pods to replace (10,000, at most all)")
    parser.add_argument("--zone", default="zone-2", help="the zone that is lost, one of five (zone-2)")
    parser.add_argument("--lost-seconds", type=float, default=120.0, help="for how long (120)")
    parser.add_argument("--jobs", type=int, help="Jobs (1,000, at most one for 100 pods)")
    parser.add_argument("--completions", type=int, default=3, help="pods of each (3)")
    parser.add_argument("--services", type=int, help="Services (5,000, at most one for 20 pods)")
    parser.add_argument("--namespaces", type=int, help="namespaces (2,000, at most one for 50 pods)")
    parser.add_argument("--list-every", type=float, default=60.0, help="seconds between whole lists of pods; 0: none")
    parser.add_argument("--budget", type=float, default=60.0, help="minutes for everything (60)")
    usual = Path(tempfile.gettempdir()) / "tiphys-simulation.json"
    parser.add_argument("--results", type=Path, default=usual, help=f"where they are written ({usual})")
    options = parser.parse_args()
    options.phases = options.phases.split(",")
    unknown = set(options.phases) - set(NAMES)
    if unknown:
        parser.error(f"no such phase: {', '.join(sorted(unknown))}")
    options.ends = time.monotonic() + options.budget * 60
    return options


def main() -> int:
    options = parse()
    settings = {name: value for name, value in vars(options).items() if name not in ("results", "ends")}
    results = Results(options.results, settings)
    first, *_ = free_ports(3)
    ports = {"controller-manager": first, "scheduler": first + 1, "simulator": first + 2}
    began = time.monotonic()
    flags = ["--control-plane-only", "--simulated-nodes", str(options.nodes), "--component-ports", str(first)]
    flags += ["--quota-backend-bytes", str(QUOTA)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the cluster is taken away then too
    try:
        with cluster(*flags) as running:
            took = time.monotonic() - began
            print(f"  {options.nodes} nodes: {took:.1f} s with the start of the cluster", flush=True)
            try:
                if options.standing:
                    stand(running, options)
                uvloop.run(measure(running, ports, options, results))
            except (asyncio.CancelledError, KeyboardInterrupt):
                print("interrupted")
    finally:
        failed = results.summary()
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
