"""RollingUpdate: scales the new set up and the old ones down, staying between two fences.

    wanted - maxUnavailable  <=  available pods        all pods  <=  wanted + maxSurge

Pure: from sets as they are, the scale each should have next.
"""

from __future__ import annotations

from collections.abc import Sequence

from tiphys.api.apps.v1 import Deployment, ReplicaSet
from tiphys.controllers.deployment.replicas import (
    active,
    max_unavailable,
    new_set_replicas,
    total_available,
    total_wanted,
    wanted,
)

# (the set, the replicas it should have)
Scale = tuple[ReplicaSet, int]


def scale_new(deployment: Deployment, olds: Sequence[ReplicaSet], new: ReplicaSet) -> Scale | None:
    """The new set's next scale; None when it is right."""
    mine, target = wanted(new), wanted(deployment)
    if mine == target:
        return None
    if mine > target:
        return new, target
    allowed = new_set_replicas(deployment, [*olds, new], new)
    return (new, allowed) if allowed != mine else None


def scale_old(deployment: Deployment, olds: Sequence[ReplicaSet], new: ReplicaSet) -> list[Scale]:
    """The old sets' next scales: first pods that are not healthy, then as many as availability allows."""
    live = active(olds)
    if not live:
        return []
    least = wanted(deployment) - max_unavailable(deployment)
    new_unavailable = wanted(new) - (new.status.available_replicas or 0)
    room = total_wanted([*olds, new]) - least - new_unavailable
    if room <= 0:
        return []
    scale = {rs.metadata.uid: wanted(rs) for rs in live}
    room -= _drop_unhealthy(live, scale, room)
    # A set that was scaled down reports for a while the pods it had; its size is right at once, and so is `room`.
    _drop_available(live, scale, min(total_available([*olds, new]) - least, room))
    return [(rs, scale[rs.metadata.uid]) for rs in live if scale[rs.metadata.uid] != wanted(rs)]


def _drop_unhealthy(live: Sequence[ReplicaSet], scale: dict[str, int], room: int) -> int:
    """Pods that do not serve can go without loss, at most `room` of them, oldest sets first; how many go."""
    total = 0
    for rs in live:
        unhealthy = wanted(rs) - (rs.status.available_replicas or 0)
        dropped = max(0, min(room - total, unhealthy))
        scale[rs.metadata.uid] -= dropped
        total += dropped
    return total


def _drop_available(live: Sequence[ReplicaSet], scale: dict[str, int], room: int) -> None:
    """Pods that serve go only while more than the least number are available."""
    for rs in live:
        if room <= 0:
            return
        dropped = min(room, scale[rs.metadata.uid])
        scale[rs.metadata.uid] -= dropped
        room -= dropped
