"""Runs the measurements of docs/performance.md.

    python -m bench [PART…]      all parts, or those named
    python -m bench PART -- …    one part with flags of its own

Every part prints the command that repeats it and a small table. Figures of a machine that others use too vary by a
third from run to run; the load is printed for that reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from bench.report import machine

# Part → module, whether it needs root, what it measures. The order is that of a run of all.
PARTS: Final = {
    "testing": ("bench.testing", False, "a cluster in a test: start, second cluster, reset, memory"),
    "api": ("bench.apiserver", False, "the API server over TLS: create, get, update, list, watch; CPU and memory"),
    "store": ("bench.store", False, "the embedded store: durable writes, ranges, watchers"),
    "scheduler": ("bench.scheduler_decide", False, "one scheduling decision over 5,000 nodes"),
    "scheduler_perf": (
        "bench.scheduler_perf",
        False,
        "the scheduler's process against the API server's: upstream's workloads",
    ),
    "proxy": ("bench.proxy", True, "services in nftables"),
    "network": ("bench.network", True, "the pod network: paths beside bare ones, look-ups, policies, DNS"),
    "up": ("bench.up", True, "`tiphys up` by part"),
    "pods": ("bench.pods", True, "from creating a pod to Running"),
    "standing": ("bench.standing", True, "pods that stand: the node's CPU at rest, memory a pod"),
    "simulation": ("bench.simulation", False, "a large cluster of simulated nodes: pods a second, latencies, memory"),
    "memory": ("bench.memory", True, "an idle cluster: CPU and memory by process"),
}


def main(arguments: Sequence[str]) -> int:
    """The number of parts that failed."""
    own = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    extra = list(arguments[len(own) + 1 :])
    unknown = [name for name in own if name not in PARTS]
    if unknown or (extra and len(own) != 1):
        parts = "\n".join(f"  {name:<16}{what}" for name, (_, _, what) in PARTS.items())
        print(f"{__doc__}\nParts:\n{parts}", file=sys.stderr)
        return 0 if unknown and unknown[0] in ("-h", "--help") else 2
    # Installed packages have their byte code; a source tree that may not keep it would be compiled at every start.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    print(machine(), flush=True)
    failed = 0
    for name in own or PARTS:
        module, root, what = PARTS[name]
        command = " ".join(["python -m bench", name, *(["--", *extra] if extra else [])])
        print(f"\n{name}: {what}; load {os.getloadavg()[0]:.1f}    ({command})", flush=True)
        if root and os.geteuid() != 0:
            print("  skipped: needs root")
            continue
        failed += subprocess.run([sys.executable, "-m", module, *extra], env=environment, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
