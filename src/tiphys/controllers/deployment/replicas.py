"""Arithmetic over a Deployment's ReplicaSets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tiphys.api.apps.v1 import Deployment, ReplicaSet
from tiphys.machinery.intstr import scaled_value

ROLLING: str = "RollingUpdate"
RECREATE: str = "Recreate"


def wanted(owner: Deployment | ReplicaSet) -> int:
    """`spec.replicas`, whose default is one."""
    return 1 if owner.spec.replicas is None else owner.spec.replicas


def total_wanted(sets: Iterable[ReplicaSet]) -> int:
    """The pods that `sets` are asked to have."""
    return sum(wanted(rs) for rs in sets)


def total_actual(sets: Iterable[ReplicaSet]) -> int:
    """The pods that `sets` have."""
    return sum(rs.status.replicas for rs in sets)


def total_ready(sets: Iterable[ReplicaSet]) -> int:
    """Their ready pods."""
    return sum(rs.status.ready_replicas or 0 for rs in sets)


def total_available(sets: Iterable[ReplicaSet]) -> int:
    """Their available pods."""
    return sum(rs.status.available_replicas or 0 for rs in sets)


def active(sets: Iterable[ReplicaSet]) -> list[ReplicaSet]:
    """The sets asked to have any pods."""
    return [rs for rs in sets if wanted(rs) > 0]


def is_rolling(deployment: Deployment) -> bool:
    """Whether the strategy is RollingUpdate, the default."""
    strategy = deployment.spec.strategy
    return strategy is None or strategy.type in ("", ROLLING)


def fenceposts(deployment: Deployment) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods: percentages of surge round up, of unavailable down, never both zero."""
    strategy = deployment.spec.strategy
    rolling = strategy.rolling_update if strategy is not None else None
    if rolling is None:
        return (0, 0) if not is_rolling(deployment) else _resolve("25%", "25%", wanted(deployment))
    surge = rolling.max_surge if rolling.max_surge is not None else 0
    unavailable = rolling.max_unavailable if rolling.max_unavailable is not None else 0
    return _resolve(surge, unavailable, wanted(deployment))


def _resolve(surge: int | str, unavailable: int | str, total: int) -> tuple[int, int]:
    max_surge = scaled_value(surge, total, True)
    max_unavailable = scaled_value(unavailable, total, False)
    if max_surge == 0 and max_unavailable == 0:
        max_unavailable = 1
    return max_surge, max_unavailable


def max_surge(deployment: Deployment) -> int:
    """Pods above the wanted number during a rolling update."""
    return fenceposts(deployment)[0] if is_rolling(deployment) else 0


def max_unavailable(deployment: Deployment) -> int:
    """Pods that may be missing during a rolling update."""
    if not is_rolling(deployment) or wanted(deployment) == 0:
        return 0
    return min(fenceposts(deployment)[1], wanted(deployment))


def new_set_replicas(deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None) -> int:
    """How many replicas the set of the current template may have now."""
    if not is_rolling(deployment):
        return wanted(deployment)
    mine = wanted(new) if new is not None else 0
    room = wanted(deployment) + max_surge(deployment) - total_wanted(sets)
    if room <= 0:
        return mine
    return mine + min(room, wanted(deployment) - mine)


def is_saturated(deployment: Deployment, rs: ReplicaSet | None) -> bool:
    """Whether `rs` alone has all the replicas, and they are available."""
    if rs is None:
        return False
    desired = _annotated(rs)
    return wanted(rs) == wanted(deployment) == desired and (rs.status.available_replicas or 0) == wanted(deployment)


def _annotated(rs: ReplicaSet) -> int | None:
    text = rs.metadata.annotations.get("deployment.kubernetes.io/desired-replicas", "")
    return int(text) if text.isdigit() else None
