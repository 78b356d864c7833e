"""An idle cluster: CPU time and memory by process.

    python -m bench.memory [--nodes 2] [--settle 10] [--seconds 20]

PSS counts a page that n processes share as 1/n, so that the column adds up; "own" is what no other process has. CPU is
the share of one core over the measured time, kernel included. Container processes (conmon and what it runs) are summed.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from bench.clusters import cluster
from bench.report import mib, table

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> tuple[int, int]:
    """Proportional and own memory of a process, in bytes."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found["Pss"], found["Private_Clean"] + found["Private_Dirty"]


def containers(name: str) -> list[int]:
    """Processes in the cluster's cgroups that are not its components: containers and their monitors."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                groups = (entry / "cgroup").read_text()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"/tiphys-{name}/" in groups and not command.startswith(b"tiphys:"):
                found.append(int(entry.name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--settle", type=float, default=10, help="seconds after `up` before measuring")
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    with cluster(f"--nodes={args.nodes}", name="bn-memory") as running:
        time.sleep(args.settle)
        processes = running.processes()
        before = {name: cpu_seconds(pid) for name, pid in processes.items()}
        begun = time.monotonic()
        time.sleep(args.seconds)
        took = time.monotonic() - begun
        rows, sums = [], [0.0, 0, 0]
        for name, pid in processes.items():
            share = (cpu_seconds(pid) - before[name]) / took
            pss, own = memory(pid)
            rows.append([name.replace("bn-memory-", "node "), f"{share:.1%}", mib(pss), mib(own)])
            sums = [sums[0] + share, sums[1] + pss, sums[2] + own]
        rows.append([f"{len(processes)} processes of ours", f"{sums[0]:.1%}", mib(sums[1]), mib(sums[2])])
        others = [memory(pid) for pid in containers(running.name)]
        rows.append(
            [f"{len(others)} of containers", "", mib(sum(o[0] for o in others)), mib(sum(o[1] for o in others))]
        )
        table(["process", "CPU", "PSS", "own"], rows)


if __name__ == "__main__":
    main()
