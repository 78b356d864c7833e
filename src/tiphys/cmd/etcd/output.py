"""What `tiphys etcd` prints: tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from tiphys.cmd.etcd.target import Standing
from tiphys.cmd.status import table
from tiphys.store.snapshot import Summary


def add_flag(flags: argparse.ArgumentParser) -> None:
    """`--write-out`."""
    flags.add_argument("-w", "--write-out", choices=("table", "json"), default="table", help="how to print")


def statuses(found: Sequence[Standing], how: str) -> None:
    """How each member stands."""
    if how == "json":
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    rows = [["ENDPOINT", "VERSION", "REVISION", "COMPACTED", "SIZE", "IN USE", "QUOTA", "LEADER", "ALARMS"]]
    for one in found:
        if one.problem:
            rows.append([one.endpoint, *[""] * 7, one.problem.removeprefix(f"{one.endpoint}: ")])
            continue
        compacted = str(one.compacted_revision) if one.compacted_revision else ""
        sizes = [bytes_of(one.size), bytes_of(one.size_in_use), bytes_of(one.quota) if one.quota else ""]
        alarmed = ", ".join((*one.alarms, *one.errors)) or "none"
        leader = "yes" if one.leader else "no"
        rows.append([one.endpoint, one.version, str(one.revision), compacted, *sizes, leader, alarmed])
    print("\n".join(table(rows)))


def alarms(found: Sequence[tuple[str, str]], how: str) -> None:
    """Alarms, a line each, as etcdctl prints them."""
    if how == "json":
        print(json.dumps([{"member": member, "alarm": kind} for member, kind in found]))
        return
    for member, kind in found:
        print(f"memberID:{member} alarm:{kind}")


def summary(found: Summary, how: str) -> None:
    """What a snapshot holds."""
    if how == "json":
        print(json.dumps(asdict(found)))
        return
    rows = [["HASH", "REVISION", "COMPACTED", "KEYS", "SIZE", "FORMAT"]]
    numbers = [str(number) for number in (found.revision, found.compacted, found.keys)]
    rows.append([found.hash[:16], *numbers, bytes_of(found.size), found.format])
    print("\n".join(table(rows)))


def bytes_of(size: int) -> str:
    """A size as people read it."""
    for unit, length in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size} B"
