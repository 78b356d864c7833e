"""Scaling a Deployment while sets of several revisions have pods: each gets its proportion. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tiphys.api.apps.v1 import Deployment, ReplicaSet
from tiphys.controllers.deployment.replicas import active, is_rolling, is_saturated, max_surge, total_wanted, wanted
from tiphys.controllers.deployment.revisions import DESIRED, MAXIMUM, by_age
from tiphys.controllers.deployment.rolling import Scale


def is_scaling(deployment: Deployment, sets: Sequence[ReplicaSet]) -> bool:
    """Whether `spec.replicas` changed since the sets were last scaled."""
    for rs in active(sets):
        text = rs.metadata.annotations.get(DESIRED, "")
        if text.isdigit() and int(text) != wanted(deployment):
            return True
    return False


def scale_all(deployment: Deployment, olds: Sequence[ReplicaSet], new: ReplicaSet | None) -> list[Scale]:
    """The scale each set should have for the Deployment's size as it is now."""
    single = _active_or_latest(olds, new)
    if single is not None:
        return [(single, wanted(deployment))] if wanted(single) != wanted(deployment) else []
    if is_saturated(deployment, new):
        return [(rs, 0) for rs in active(olds)]
    if not is_rolling(deployment):
        return []
    sets = active([*olds, *([new] if new is not None else [])])
    allowed = wanted(deployment) + max_surge(deployment) if wanted(deployment) > 0 else 0
    return _proportions(deployment, sets, allowed - total_wanted(sets))


def _active_or_latest(olds: Sequence[ReplicaSet], new: ReplicaSet | None) -> ReplicaSet | None:
    """The only set with pods, or the newest of all when none has; None when several have."""
    live = active([*olds, *([new] if new is not None else [])])
    if len(live) == 1:
        return live[0]
    if live:
        return None
    return new if new is not None else (by_age(olds)[-1] if olds else None)


def _proportions(deployment: Deployment, sets: Sequence[ReplicaSet], to_add: int) -> list[Scale]:
    """Spread `to_add` (negative: take away) over `sets` by their size; what rounding leaves goes to the largest."""
    newest_first = list(reversed(by_age(sets)))
    # Growing prefers the newest among sets of one size, shrinking the oldest.
    ordered = sorted(newest_first if to_add > 0 else by_age(sets), key=wanted, reverse=True)
    added = 0
    scale: list[Scale] = []
    for rs in ordered:
        share = _share(deployment, rs, to_add, added) if to_add else 0
        scale.append((rs, wanted(rs) + share))
        added += share
    if scale and to_add != added:
        largest, size = scale[0]
        scale[0] = (largest, max(0, size + to_add - added))
    return scale


def _share(deployment: Deployment, rs: ReplicaSet, to_add: int, added: int) -> int:
    if wanted(rs) == 0 or to_add == added:
        return 0
    left = to_add - added
    fraction = _fraction(deployment, rs)
    return min(fraction, left) if to_add > 0 else max(fraction, left)


def _fraction(deployment: Deployment, rs: ReplicaSet) -> int:
    """By how much a set grows when the Deployment does: in proportion to the maximum it was last scaled for."""
    if wanted(deployment) == 0:
        return -wanted(rs)
    size = wanted(deployment) + max_surge(deployment)
    text = rs.metadata.annotations.get(MAXIMUM, "")
    before = int(text) if text.isdigit() and int(text) > 0 else deployment.status.replicas or 0
    if not before:
        return 0
    # Half away from zero, as everyone rounds but Python.
    return math.floor(wanted(rs) * size / before + 0.5) - wanted(rs)
