"""What is on this machine that a cluster may have put there: compared before and after."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Snapshot:
    """Everything of one moment, as sorted text lines."""

    processes: frozenset[str]
    namespaces: frozenset[str]
    links: frozenset[str]
    addresses: frozenset[str]
    routes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    tables: frozenset[str]
    files: frozenset[str]
    forwarding: str

    def added(self, later: Snapshot) -> dict[str, set[str]]:
        """What is there later and was not before, by kind; only kinds with something in them."""
        found: dict[str, set[str]] = {}
        for item in fields(self):
            before, after = getattr(self, item.name), getattr(later, item.name)
            if isinstance(before, str):
                if before != after:
                    found[item.name] = {f"{before} became {after}"}
            elif after - before:
                found[item.name] = set(after - before)
        return found


def take(*marks: str) -> Snapshot:
    """A snapshot; processes and files are only those that carry one of `marks` in their name or command line."""
    return Snapshot(
        processes=frozenset(_processes(marks)),
        namespaces=frozenset(_list(Path("/run/netns"))),
        links=frozenset(_lines("ip", "-o", "-br", "link", column=0)),
        addresses=frozenset(_lines("ip", "-o", "addr")),
        routes=frozenset(_lines("ip", "route")),
        mounts=frozenset(line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()),
        cgroups=frozenset(_cgroups(marks)),
        tables=frozenset(_lines("nft", "list", "tables")),
        files=frozenset(_files(marks)),
        forwarding=Path("/proc/sys/net/ipv4/ip_forward").read_text().strip(),
    )


def _lines(*command: str, column: int | None = None) -> list[str]:
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    # Lifetimes of addresses count down.
    rows = [line for line in (" ".join(line.split()) for line in output) if line and "valid_lft" not in line]
    return rows if column is None else [row.split()[column] for row in rows]


def _list(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []


def _processes(marks: tuple[str, ...]) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if entry.name != str(os.getpid()) and any(mark in command for mark in marks) and "pytest" not in command:
            found.append(f"{entry.name} {command[:160]}")
    return found


def _cgroups(marks: tuple[str, ...]) -> list[str]:
    found = []
    for directory, names, _ in os.walk(CGROUPS):
        depth = directory.count("/") - str(CGROUPS).count("/")
        if depth > 3:
            names.clear()
        found += [os.path.join(directory, name) for name in names if any(mark in name for mark in marks)]
    return found


def _files(marks: tuple[str, ...]) -> list[str]:
    found = []
    for directory in (
        "/var/lib/tiphys",
        "/run/tiphys",
        str(Path.home() / ".kube"),
        "/var/lib/kubelet",
        "/var/log/pods",
    ):
        found += [
            os.path.join(directory, name) for name in _list(Path(directory)) if any(mark in name for mark in marks)
        ]
    return found
