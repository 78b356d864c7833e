"""The few fields of a pod that a simulated node looks at.

A simulation holds a hundred thousand pods; of each only this is decoded and kept.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from tiphys.api.base import Struct
from tiphys.client import Endpoint
from tiphys.client.endpoint import ListBody


class OwnerView(Struct, frozen=True):
    kind: str = ""
    uid: str = ""
    controller: bool = False


class MetaView(Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: tuple[str, ...] = ()
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    owner_references: tuple[OwnerView, ...] = ()


class ContainerView(Struct, frozen=True):
    name: str = ""
    image: str = ""
    restart_policy: str = ""


class GateView(Struct, frozen=True):
    condition_type: str = ""


class SpecView(Struct, frozen=True):
    node_name: str = ""
    restart_policy: str = "Always"
    host_network: bool = False
    containers: tuple[ContainerView, ...] = ()
    init_containers: tuple[ContainerView, ...] = ()
    readiness_gates: tuple[GateView, ...] = ()


class ConditionView(Struct, frozen=True):
    type: str = ""
    status: str = ""
    last_transition_time: datetime | None = None


class RunningView(Struct, frozen=True):
    started_at: datetime | None = None


class TerminatedView(Struct, frozen=True):
    finished_at: datetime | None = None


class StateView(Struct, frozen=True):
    running: RunningView | None = None
    terminated: TerminatedView | None = None


class ContainerStatusView(Struct, frozen=True):
    ready: bool = False
    restart_count: int = 0
    state: StateView = StateView()
    last_state: StateView = StateView()


class StatusView(Struct, frozen=True):
    phase: str = ""
    start_time: datetime | None = None
    conditions: tuple[ConditionView, ...] = ()
    container_statuses: tuple[ContainerStatusView, ...] = ()
    pod_ip: str = msgspec.field(default="", name="podIP")


class PodView(Struct, frozen=True):
    """A pod, as far as it matters here."""

    metadata: MetaView = MetaView()
    spec: SpecView = SpecView()
    status: StatusView = StatusView()

    def condition(self, kind: str) -> ConditionView | None:
        """Its condition of this type."""
        return next((each for each in self.status.conditions if each.type == kind), None)


# The client's types promise whole metadata; the parts it relies on itself (name, uid, version) are here.
_KIND: Final[Any] = PodView
PODS: Final[Endpoint[Any]] = Endpoint(
    prefix="/api/v1",
    plural="pods",
    namespaced=True,
    api_version="v1",
    kind="Pod",
    type=_KIND,
    decoder=msgspec.json.Decoder(_KIND),
    list_decoder=msgspec.json.Decoder(ListBody[_KIND]),
)
