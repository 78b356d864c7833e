"""How long `tiphys up` takes, by part.

    python -m bench.up [--runs 5] [--nodes 2]

"first": no state, no images, as on a machine that has just been installed. "again": after `down`, state and images
kept. Times of parts are as `up` prints them: certificates, network and processes for themselves, the rest since the
supervisor began. "command" is the whole command with the interpreter's start.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.clusters import free_port, tiphys
from bench.report import table

PART = re.compile(r"^ {2}(\S.*?) {2,}([0-9.]+) s", re.MULTILINE)
READY = re.compile(r"^Ready after ([0-9.]+) s", re.MULTILINE)


def measure(name: str, *flags: str) -> dict[str, float]:
    """Part → seconds."""
    begun = time.monotonic()
    output = tiphys("up", "--name", name, *flags)
    took = time.monotonic() - begun
    parts = {what.replace(f"{name}-", ""): float(seconds) for what, seconds in PART.findall(output)}
    found = READY.search(output)
    return parts | ({"ready": float(found[1])} if found else {}) | {"command": took}


def show(heads: tuple[str, str], first: list[dict[str, float]], again: list[dict[str, float]]) -> None:
    """One row a part, medians."""
    rows = []
    for part in dict.fromkeys(part for run in [*first, *again] for part in run):
        columns = [[run[part] for run in runs if part in run] for runs in (first, again)]
        rows.append([part, *(f"{median(values):.2f} s" if values else "" for values in columns)])
    table(["part", *heads], rows)


def runs_of(name: str, count: int, *flags: str) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """`count` times: up, down, up again, down --purge."""
    first, again = [], []
    with tempfile.TemporaryDirectory(prefix="tiphys-bench-") as directory:
        kubeconfig = f"--kubeconfig={Path(directory) / 'kubeconfig'}"
        for _ in range(count):
            try:
                first.append(measure(name, kubeconfig, f"--api-port={free_port()}", *flags))
                tiphys("down", "--name", name)
                again.append(measure(name, kubeconfig, *[flag for flag in flags if flag.endswith("-only")]))
            finally:
                tiphys("down", "--name", name, "--purge")
    return first, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="medians of so many")
    parser.add_argument("--nodes", type=int, default=2, help="nodes of the cluster")
    args = parser.parse_args()
    name = f"bn-{os.getpid()}"
    print(f"  median of {args.runs} runs, {args.nodes} nodes")
    show(("first", "again"), *runs_of(name, args.runs, f"--nodes={args.nodes}"))
    print("  API server alone (--api-only)")
    show(("first", "again"), *runs_of(name, args.runs, "--api-only"))


if __name__ == "__main__":
    main()
