"""Which pods a rolling update replaces next. Pure.

Without surge the old pod goes first, and at most maxUnavailable nodes lack an available pod. With
surge the new pod comes first, on at most maxSurge nodes, and the old one goes when it is available.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tiphys.api.apps.v1 import DaemonSet
from tiphys.api.core.v1 import Pod
from tiphys.controllers.common.pods import is_available
from tiphys.machinery.intstr import scaled_value

HASH_LABEL = "controller-revision-hash"


@dataclass(slots=True)
class Step:
    """Pods to delete, and nodes that get a second, new pod."""

    delete: list[Pod] = field(default_factory=list)
    surge: list[str] = field(default_factory=list)


def limits(daemon: DaemonSet, nodes: int) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in nodes; both round up, and at least one node may change."""
    strategy = daemon.spec.update_strategy
    rolling = strategy.rolling_update if strategy is not None else None
    surge = scaled_value(rolling.max_surge, nodes, True) if rolling is not None and rolling.max_surge else 0
    given = rolling.max_unavailable if rolling is not None and rolling.max_unavailable is not None else 1
    unavailable = scaled_value(given, nodes, True)
    return surge, unavailable if surge or unavailable else 1


def is_new(pod: Pod, revision_hash: str) -> bool:
    """Whether the pod is of the current template."""
    return pod.metadata.labels.get(HASH_LABEL) == revision_hash


def step(
    daemon: DaemonSet, by_node: Mapping[str, Sequence[Pod]], wanted: Sequence[str], revision_hash: str, now: datetime
) -> Step:
    """The next replacements; `wanted` are the nodes that should have a pod."""
    max_surge, max_unavailable = limits(daemon, len(wanted))
    return (
        _with_surge(daemon, by_node, wanted, revision_hash, max_surge, max_unavailable, now)
        if max_surge
        else _in_place(daemon, by_node, wanted, revision_hash, max_unavailable, now)
    )


def _in_place(
    daemon: DaemonSet,
    by_node: Mapping[str, Sequence[Pod]],
    wanted: Sequence[str],
    revision_hash: str,
    max_unavailable: int,
    now: datetime,
) -> Step:
    result = Step()
    candidates: list[Pod] = []
    unavailable = 0
    for node in wanted:
        pods = [pod for pod in by_node.get(node, ()) if pod.metadata.deletion_timestamp is None]
        if not any(_available(daemon, pod, now) for pod in pods):
            unavailable += 1
            # An old pod that does not serve is replaced at no cost.
            result.delete += [pod for pod in pods if not is_new(pod, revision_hash)]
            continue
        candidates += [pod for pod in pods if not is_new(pod, revision_hash)]
    result.delete += candidates[: max(0, max_unavailable - unavailable)]
    return result


def _with_surge(
    daemon: DaemonSet,
    by_node: Mapping[str, Sequence[Pod]],
    wanted: Sequence[str],
    revision_hash: str,
    max_surge: int,
    max_unavailable: int,
    now: datetime,
) -> Step:
    result = Step()
    candidates: list[str] = []
    surging = 0
    for node in wanted:
        pods = [pod for pod in by_node.get(node, ()) if pod.metadata.deletion_timestamp is None]
        new = [pod for pod in pods if is_new(pod, revision_hash)]
        old = [pod for pod in pods if not is_new(pod, revision_hash)]
        if not old:
            continue
        if new:
            if any(_available(daemon, pod, now) for pod in new):
                result.delete += old
            else:
                surging += 1
        elif not any(_available(daemon, pod, now) for pod in old):
            result.surge.append(node)
            surging += 1
        else:
            candidates.append(node)
    result.surge += candidates[: max(0, max_surge - surging)]
    return result


def _available(daemon: DaemonSet, pod: Pod, now: datetime) -> bool:
    return is_available(pod, daemon.spec.min_ready_seconds or 0, now)
