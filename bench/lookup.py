"""What a new connection costs against the number of Services before its own, in each mode of the proxy.

    python -m bench.lookup [--modes nftables,iptables,ipvs] [--counts 10,100,1000,3000,10000]

The proxy's own writers load the Services in a network namespace of its own (needs root); the last of them leads to a
server that is there. A mode the kernel has not is left out and named: `python -m bench.emulated` has Debian's kernel.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from functools import partial

from bench.proxy import choice, service, writer
from bench.report import percentile, table
from tiphys.base.netns import call_in
from tiphys.base.nft import AsyncNft
from tiphys.proxy.config import IPVS, MODES
from tiphys.proxy.ipvs.kernel import is_available
from tiphys.proxy.model import Choice, Endpoint

COUNTS = "10,100,1000,3000,10000"
SERVER, PORT = "10.200.0.1", 8080
# Both ends of the way share a CPU, and a byte costs the same every time. On two, most of it would be the waking of an
# idle one, and whether there is one is chance.
CPU = min(os.sched_getaffinity(0))


def sh(command: str, netns: str = "") -> str:
    """A command line, in a namespace (a name, or a path as of a process)."""
    words = ["nsenter", f"--net={where(netns)}"] if netns else []
    done = subprocess.run([*words, "sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{netns}: {command}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def where(netns: str) -> str:
    return netns if "/" in netns else f"/run/netns/{netns}"


def connecting(netns: str, address: str, port: int, times: int = 600) -> float:
    """Median of opening a connection, in µs."""

    def work() -> float:
        os.sched_setaffinity(0, {CPU})
        found = []
        for _ in range(times):
            begun = time.perf_counter()
            with socket.create_connection((address, port)):
                found.append(time.perf_counter() - begun)
        return percentile(found, 0.5) * 1e6

    return call_in(where(netns), work)


def lookup(counts: Sequence[int], modes: Sequence[str] = MODES) -> None:
    """The curve of each mode, and how long the load took."""
    if IPVS in modes and not is_available():
        print("  ipvs: this kernel has none (python -m bench.emulated bench.lookup measures all in Debian's)")
        modes = [mode for mode in modes if mode != IPVS]
    rows = []
    for count in counts:
        row: list[object] = [f"{count:,}"]
        for mode in modes:
            row += _measured(mode, count)
        rows.append(row)
    table(["Services", *(head for mode in modes for head in (mode, "load"))], rows)


def _measured(mode: str, count: int) -> tuple[str, str]:
    """A new connection, the load."""
    netns = f"tph-test-look-{os.getpid()}"
    sh(f"ip netns add {netns}")
    try:
        sh("ip link set lo up", netns)
        sh(f"ip addr add {SERVER}/32 dev lo", netns)
        sh("ip route add local 10.96.0.0/12 dev lo", netns)
        listener = call_in(where(netns), lambda: socket.create_server((SERVER, PORT), backlog=4096))
        loaded = call_in(where(netns), partial(_loaded, mode, count))
        last = service(count - 1)
        took = connecting(netns, last.cluster_ip, last.port, 1500)
        listener.close()
    finally:
        sh(f"ip netns del {netns}")
    return f"{took:.0f} µs", f"{loaded:.1f} s"


def _loaded(mode: str, count: int) -> float:
    return asyncio.run(_load(mode, count))


async def _load(mode: str, count: int) -> float:
    """Write that many Services, the last to a server that is there; seconds."""
    nft = AsyncNft()
    begun = time.perf_counter()
    try:
        rules = writer(mode, nft, cluster_cidr="")
        await rules.start()
        for number in range(count):
            made = choice(number, 1)
            if number == count - 1:
                made = Choice(cluster=(Endpoint(ip=SERVER, port=PORT),), any_anywhere=True)
            rules.desired.set_service(service(number), made)
        await rules.apply()
    finally:
        nft.close()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES), help="of the proxy, by commas")
    parser.add_argument("--counts", default=COUNTS, help="Services, by commas")
    options = parser.parse_args()
    lookup([int(each) for each in options.counts.split(",")], options.modes.split(","))


if __name__ == "__main__":
    main()
