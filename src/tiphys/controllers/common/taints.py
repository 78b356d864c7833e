"""Taints of nodes and what pods tolerate.

https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import Node, Taint, Toleration

NOT_READY: Final = "node.kubernetes.io/not-ready"
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"
MEMORY_PRESSURE: Final = "node.kubernetes.io/memory-pressure"
DISK_PRESSURE: Final = "node.kubernetes.io/disk-pressure"
PID_PRESSURE: Final = "node.kubernetes.io/pid-pressure"
NETWORK_UNAVAILABLE: Final = "node.kubernetes.io/network-unavailable"

NO_SCHEDULE: Final = "NoSchedule"
NO_EXECUTE: Final = "NoExecute"


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether one toleration covers one taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def same(one: Taint, other: Taint) -> bool:
    """Whether two taints are one: equal key and effect."""
    return one.key == other.key and one.effect == other.effect


def with_taints(node: Node, add: Iterable[Taint], remove: Iterable[Taint], now: datetime) -> tuple[Taint, ...]:
    """The node's taints after removing and adding; one already there keeps the time it was added."""
    removed = list(remove)
    kept = [taint for taint in node.spec.taints if not any(same(taint, gone) for gone in removed)]
    for taint in add:
        if not any(same(taint, known) for known in kept):
            kept.append(replace(taint, time_added=now.replace(microsecond=0)))
    return tuple(kept)


def no_execute(node: Node) -> Sequence[Taint]:
    """The taints that evict."""
    return [taint for taint in node.spec.taints if taint.effect == NO_EXECUTE]
