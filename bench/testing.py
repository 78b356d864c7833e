"""A cluster in a test (`tiphys.testing`): time to start, to empty, memory.

    python -m bench.testing [--runs 10]

"first" begins before anything of Tiphys is imported, in a new interpreter, and ends when requests are answered.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from bench.memory import memory
from bench.report import mib, ms, percentile, table

PROBE = """
import time
begun = time.perf_counter()
from tiphys import testing
with testing.cluster():
    print(time.perf_counter() - begun)
"""


def children(pid: int) -> list[int]:
    """Its child processes."""
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def first(runs: int) -> list[float]:
    """The first cluster of so many new interpreters."""
    command = [sys.executable, "-c", PROBE]
    return [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(runs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    rows = []

    def row(what: str, values: list[float]) -> None:
        rows.append([what, ms(percentile(values, 0.5)), ms(max(values))])

    row("first cluster, imports included", first(args.runs))
    from tiphys import testing
    from tiphys.testing.launcher import launcher

    with testing.cluster() as one:
        time.sleep(2)  # the controllers start
        starts, stops = [], []
        for _ in range(args.runs):
            begun = time.perf_counter()
            another = testing.clusters.start()
            starts.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            another.stop()
            stops.append(time.perf_counter() - begun)
        row("every further cluster", starts)
        row("stop", stops)
        names, resets = [], []
        for _ in range(args.runs):
            begun = time.perf_counter()
            one.namespace()
            names.append(time.perf_counter() - begun)
            for _ in range(20):
                one.namespace()
            begun = time.perf_counter()
            one.reset()
            resets.append(time.perf_counter() - begun)
        row("a namespace, ready for pods", names)
        row("reset of 21 namespaces", resets)
        table(["", "median", "max"], rows)
        (pid,) = children(launcher().pid)
        print(f"  memory (PSS): cluster {mib(memory(pid)[0])}, fork server {mib(memory(launcher().pid)[0])}")


if __name__ == "__main__":
    main()
