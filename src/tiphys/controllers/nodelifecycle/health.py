"""Judging one node: is it heard of, what conditions and taints follow. Pure.

A heartbeat is a renewal of the node's Lease or a change of its Ready condition's heartbeat time.
When it was heard is told by our own clock, so that the clocks of nodes do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from tiphys.api.coordination.v1 import Lease
from tiphys.api.core.v1 import Node, NodeCondition, Taint
from tiphys.controllers.common.taints import (
    DISK_PRESSURE,
    MEMORY_PRESSURE,
    NETWORK_UNAVAILABLE,
    NO_EXECUTE,
    NO_SCHEDULE,
    NOT_READY,
    PID_PRESSURE,
    UNREACHABLE,
    UNSCHEDULABLE,
    same,
)

WATCHED: Final = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")

# (condition, status) -> the taint that keeps new pods away.
_TAINTS: Final = {
    ("Ready", "False"): NOT_READY,
    ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): MEMORY_PRESSURE,
    ("DiskPressure", "True"): DISK_PRESSURE,
    ("PIDPressure", "True"): PID_PRESSURE,
    ("NetworkUnavailable", "True"): NETWORK_UNAVAILABLE,
}
_OURS: Final = frozenset({*_TAINTS.values(), UNSCHEDULABLE})


@dataclass(frozen=True, slots=True)
class Heard:
    """The last heartbeat of a node, and when we saw it (monotonic seconds)."""

    heartbeat: datetime | None
    renewed: datetime | None
    at: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What follows from one state of a node; worked out once, since thousands are looked at every few seconds."""

    node: Node
    ready: bool
    spoken: bool  # it has a Ready condition
    add: Taint | None  # the NoExecute taint it should have and has not
    stale: tuple[Taint, ...]  # those it should no longer have

    @property
    def gone(self) -> bool:
        """Its pods serve nobody any more."""
        return self.spoken and not self.ready


def judge(node: Node) -> Judged:
    """A node as it is."""
    ready = condition(node, "Ready")
    wanted = wanted_no_execute(node)
    present = wanted is None or any(same(taint, wanted) for taint in node.spec.taints)
    return Judged(
        node=node,
        ready=ready is not None and ready.status == "True",
        spoken=ready is not None,
        add=None if present else wanted,
        stale=tuple(stale_no_execute(node)),
    )


def hear(node: Node, lease: Lease | None, before: Heard | None, now: float) -> Heard:
    """`before`, moved on when a new heartbeat arrived."""
    ready = condition(node, "Ready")
    heartbeat = ready.last_heartbeat_time if ready is not None and ready.status != "Unknown" else None
    renewed = lease.spec.renew_time if lease is not None else None
    if before is None:
        return Heard(heartbeat, renewed, now)
    fresh = (heartbeat is not None and heartbeat != before.heartbeat) or (
        renewed is not None and (before.renewed is None or renewed > before.renewed)
    )
    return Heard(heartbeat or before.heartbeat, renewed or before.renewed, now if fresh else before.at)


def condition(node: Node, type_: str) -> NodeCondition | None:
    """The node's condition of a type."""
    for found in node.status.conditions:
        if found.type == type_:
            return found
    return None


def silent(node: Node, now: datetime) -> Node:
    """`node` with every condition Unknown that its kubelet should have kept up."""
    moment = now.replace(microsecond=0)
    conditions = list(node.status.conditions)
    for type_ in WATCHED:
        known = condition(node, type_)
        if known is None:
            conditions.append(
                NodeCondition(
                    type=type_,
                    status="Unknown",
                    reason="NodeStatusNeverUpdated",
                    message="Kubelet never posted node status.",
                    last_heartbeat_time=node.metadata.creation_timestamp,
                    last_transition_time=moment,
                )
            )
        elif known.status != "Unknown":
            unknown = replace(
                known,
                status="Unknown",
                reason="NodeStatusUnknown",
                message="Kubelet stopped posting node status.",
                last_transition_time=moment,
            )
            conditions[conditions.index(known)] = unknown
    return replace(node, status=replace(node.status, conditions=tuple(conditions)))


def wanted_no_schedule(node: Node) -> list[Taint]:
    """The NoSchedule taints that the node's conditions and its cordon ask for."""
    keys = [key for (type_, status), key in _TAINTS.items() if _has(node, type_, status)]
    if node.spec.unschedulable:
        keys.append(UNSCHEDULABLE)
    return [Taint(key=key, effect=NO_SCHEDULE) for key in keys]


def stale_no_schedule(node: Node) -> list[Taint]:
    """The NoSchedule taints of ours that nothing asks for any longer."""
    wanted = {taint.key for taint in wanted_no_schedule(node)}
    return [
        taint
        for taint in node.spec.taints
        if taint.effect == NO_SCHEDULE and taint.key in _OURS and taint.key not in wanted
    ]


def wanted_no_execute(node: Node) -> Taint | None:
    """The taint that evicts the node's pods; None for a node that is ready, or has not said anything yet."""
    ready = condition(node, "Ready")
    if ready is None or ready.status == "True":
        return None
    return Taint(key=UNREACHABLE if ready.status == "Unknown" else NOT_READY, effect=NO_EXECUTE)


def stale_no_execute(node: Node) -> list[Taint]:
    """The NoExecute taints of ours that no longer fit."""
    wanted = wanted_no_execute(node)
    return [
        taint
        for taint in node.spec.taints
        if taint.effect == NO_EXECUTE
        and taint.key in (NOT_READY, UNREACHABLE)
        and (wanted is None or taint.key != wanted.key)
    ]


def _has(node: Node, type_: str, status: str) -> bool:
    found = condition(node, type_)
    return found is not None and found.status == status
