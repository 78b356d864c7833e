"""Where ReplicaSet and ReplicationController differ: their selector, their status type, their name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from msgspec.structs import replace

from tiphys.api.apps.v1 import ReplicaSet, ReplicaSetCondition, ReplicaSetStatus
from tiphys.api.core.v1 import ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus
from tiphys.client import Object
from tiphys.controllers.common.selectors import selector_of, selector_of_map
from tiphys.machinery.selectors import LabelSelector

# Both kinds have these parts under the same names, but no common type: the bound is what they share.
R = TypeVar("R", bound=Object)


@dataclass(frozen=True, slots=True)
class ReplicaKind(Generic[R]):
    """One of the two kinds; `component` is the source of its events."""

    kind: type[R]
    component: str
    queue_name: str
    selector: Callable[[R], LabelSelector | None]
    condition: Callable[..., Any]
    with_status: Callable[..., R]


def _rc_selector(rc: ReplicationController) -> LabelSelector | None:
    return selector_of_map(rc.spec.selector) if rc.spec.selector else None


def _rs_with_status(rs: ReplicaSet, conditions: Sequence[ReplicaSetCondition], **counts: int | None) -> ReplicaSet:
    return replace(rs, status=ReplicaSetStatus(conditions=tuple(conditions), **counts))  # type: ignore[arg-type]


def _rc_with_status(
    rc: ReplicationController, conditions: Sequence[ReplicationControllerCondition], **counts: int | None
) -> ReplicationController:
    counts.pop("terminating_replicas", None)
    return replace(rc, status=ReplicationControllerStatus(conditions=tuple(conditions), **counts))  # type: ignore[arg-type]


REPLICA_SETS: Final = ReplicaKind(
    kind=ReplicaSet,
    component="replicaset-controller",
    queue_name="replicaset",
    selector=lambda rs: selector_of(rs.spec.selector),
    condition=ReplicaSetCondition,
    with_status=_rs_with_status,
)

REPLICATION_CONTROLLERS: Final = ReplicaKind(
    kind=ReplicationController,
    component="replication-controller",
    queue_name="replicationmanager",
    selector=_rc_selector,
    condition=ReplicationControllerCondition,
    with_status=_rc_with_status,
)
