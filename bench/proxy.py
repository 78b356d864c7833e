"""What Services cost: loading them, changing one endpoint, restarting, and memory.

    python -m bench.proxy [--mode nftables,iptables,ipvs] [--services 1000,10000] [--endpoints 10] [--changes 300]

Runs the proxy's own state and applier in a network namespace of its own (needs root); each line
is one measurement. "values" is the time to decide, "kernel" the transaction.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import product
from typing import Any

from tiphys.base.netns import call_in
from tiphys.base.nft import AsyncNft
from tiphys.proxy.config import IPTABLES, IPVS, MODES, NFTABLES, IpvsSettings
from tiphys.proxy.iptables.applier import IptablesApplier
from tiphys.proxy.iptables.chains import Site
from tiphys.proxy.ipvs.applier import IpvsApplier
from tiphys.proxy.ipvs.layout import Layout as IpvsLayout
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort
from tiphys.proxy.nftables.applier import Applier
from tiphys.proxy.nftables.layout import Layout
from tiphys.proxy.rules import RuleWriter


def service(number: int, node_port: bool = False) -> ServicePort:
    return ServicePort(
        key=PortKey(ServiceKey("bench", f"service-{number}"), "", "tcp"),
        cluster_ip=f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}",
        port=80,
        node_port=30000 + number if node_port else 0,
    )


def choice(number: int, endpoints: int, turn: int = 0) -> Choice:
    made = [
        Endpoint(ip=f"10.{128 + number // 250 % 100}.{number % 250}.{index + 1}", port=8080, is_local=index == 0)
        for index in range(endpoints)
    ]
    if turn:
        made[turn % endpoints] = Endpoint(ip=f"10.240.{turn // 250 % 250}.{turn % 250 + 1}", port=8080)
    return Choice(cluster=tuple(made), any_anywhere=True)


def report(what: str, latencies: list[float]) -> None:
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
    print(f"{what:<52} p50 {p50:8.2f} ms   p99 {p99:8.2f} ms", flush=True)


def writer(mode: str, nft: AsyncNft, cluster_cidr: str = "10.128.0.0/9") -> RuleWriter:
    """What writes a mode's rules; ValueError for one there is not."""
    if mode == NFTABLES:
        return Applier(nft, Layout(cluster_cidr=cluster_cidr))
    if mode == IPTABLES:
        return IptablesApplier(nft, Site(cluster_cidr=cluster_cidr))
    if mode == IPVS:
        return IpvsApplier(nft, IpvsLayout(cluster_cidr=cluster_cidr), IpvsSettings())
    raise ValueError(f"no mode of the proxy: {mode}")


async def measure(mode: str, services: int, endpoints: int, changes: int) -> None:
    nft = AsyncNft()
    applier = writer(mode, nft)
    await applier.start()
    label = f"{mode}, {services:,} x {endpoints}"
    begun = time.perf_counter()
    for number in range(services):
        applier.desired.set_service(service(number), choice(number, endpoints))
    decided = time.perf_counter()
    await applier.apply()
    done = time.perf_counter()
    print(
        f"{label + ': full load':<52} values {(decided - begun) * 1e3:.0f} ms   kernel {(done - decided) * 1e3:.0f} ms"
    )

    async def timed(what: str, counts: list[int]) -> None:
        latencies = []
        for turn in range(changes):
            number = turn * 37 % services
            started = time.perf_counter()
            applier.desired.set_service(service(number), choice(number, counts[turn % len(counts)], turn + 1))
            await applier.apply()
            latencies.append(time.perf_counter() - started)
        report(f"{label}: {what}", latencies)

    await timed("one endpoint replaced", [endpoints])
    await timed("one endpoint more or less", [endpoints + 1, endpoints])
    latencies = []
    for turn in range(changes):
        added = service(services + turn)
        started = time.perf_counter()
        applier.desired.set_service(added, choice(services + turn, endpoints))
        await applier.apply()
        latencies.append(time.perf_counter() - started)
    report(f"{label}: one service added", latencies)
    begun = time.perf_counter()
    again = writer(mode, nft)
    assert await again.start()
    for number in range(services + changes):
        again.desired.set_service(service(number), choice(number, endpoints))
    await again.apply()
    print(f"{label + ': restart, difference found and written':<52} {(time.perf_counter() - begun) * 1e3:12.0f} ms")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{label + ': largest memory of the process':<52} {memory:12} MB")
    nft.close()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="nftables", help=f"{', '.join(MODES)}: one or several by commas")
    parser.add_argument("--services", default="1000,10000", help="how many, several by commas")
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--changes", type=int, default=300)
    options = parser.parse_args()
    for mode, services in product(options.mode.split(","), (int(each) for each in options.services.split(","))):
        name = f"tph-test-bench-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            work = partial(measure, mode, services, options.endpoints, options.changes)
            call_in(f"/run/netns/{name}", partial(run, work))
        finally:
            subprocess.run(["ip", "netns", "del", name], check=True)


if __name__ == "__main__":
    main()
