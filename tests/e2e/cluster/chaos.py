"""What a node's pods are made of, seen from the machine: whom a storm of kills can hit, and what it may leave."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster import machine

RUN, STATE = Path("/run/tiphys"), Path("/var/lib/tiphys")
_POD = re.compile(r"pod([0-9a-f-]{36})")


@dataclass(frozen=True)
class Target:
    """A monitor (conmon) or a pod's pause process: `uid` is the pod it belongs to."""

    kind: str
    pid: int
    uid: str


def targets(cluster: str) -> list[Target]:
    """Every monitor and pause process of the cluster that lives."""
    found = []
    for bundle in RUN.glob(f"{cluster}/nodes/*/runtime/containers/*"):
        try:
            config = json.loads((bundle / "config.json").read_text())
            match = _POD.search(config["linux"]["cgroupsPath"])
            monitor = int((bundle / "conmon.pid").read_text())
            process = int((bundle / "pid").read_text())
            command = Path(f"/proc/{monitor}/cmdline").read_bytes()
        except (OSError, ValueError):
            continue  # being made, or gone
        if match is None or bundle.name.encode() not in command:
            continue
        found.append(Target("monitor", monitor, match[1]))
        if config["process"]["args"] == ["/pause"] and Path(f"/proc/{process}").exists():
            found.append(Target("pause", process, match[1]))
    return found


def components(cluster: str, *kinds: str) -> dict[str, int]:
    """The processes of the nodes' components of these kinds, by name."""
    found = {}
    for path in (RUN / cluster / "pids").glob("*.pid"):
        text = path.read_text()
        if path.stem.endswith(kinds) and text and Path(f"/proc/{text}").exists():
            found[path.stem] = int(text)
    return found


def holdings(cluster: str) -> Counter[str]:
    """How many of each thing the nodes hold for pods, in the kernel and on disk."""
    run, state = RUN / cluster / "nodes", STATE / cluster / "nodes"
    mounts = {line.split()[4] for line in _nodes_mounts(cluster)}
    return Counter(
        {
            "monitors": sum(cluster in command for command in _commands("conmon")),
            "processes": len(_processes_of_pods(cluster)),
            "zombies": _zombies(set(components(cluster, "").values())),
            "mounts": len(mounts),
            "cgroups": len([p for p in machine.CGROUPS.glob(f"*/tiphys-{cluster}/**/pod*") if p.is_dir()]),
            "addresses": len(list(state.glob("*/network/addresses/[0-9]*"))),
            "bundles": len(list(run.glob("*/runtime/containers/*"))),
            "exit files": len(list(run.glob("*/runtime/exits/*"))),
            "OCI states": len(list(run.glob("*/runtime/oci/*"))),
            "container records": len(list(state.glob("*/runtime/containers/*"))),
            "sandbox records": len(list(state.glob("*/runtime/sandboxes/*"))),
            "pod directories": len(list(state.glob("*/kubelet/pods/*"))),
            "log directories": len(list(state.glob("*/pod-logs/*"))),
        }
    )


def _nodes_mounts(cluster: str) -> list[str]:
    """Mount entries below the nodes' own directories, from every mount namespace of the cluster's components."""
    lines: list[str] = []
    for pid in components(cluster, "kubelet", "runtime").values():
        try:
            lines += Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        except OSError:
            continue
    return [line for line in lines if f"/{cluster}/nodes/" in line.split()[4]]


def _commands(program: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name == program:
            found.append(" ".join(words))
    return found


def _processes_of_pods(cluster: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if f"tiphys-{cluster}/" in text and _POD.search(text):
            found.append(int(path.parent.name))
    return found


def _zombies(parents: set[int]) -> int:
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        count += fields[0] == "Z" and int(fields[1]) in parents
    return count
