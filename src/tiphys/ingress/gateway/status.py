"""What is written into the statuses of GatewayClass, Gateway and HTTPRoute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec.structs import replace

from tiphys.api.meta.v1 import Condition
from tiphys.ingress.gateway.translate import CONTROLLER, ListenerVerdicts, Verdict
from tiphys.ingress.gateway.types import (
    GROUP,
    Conditions,
    Gateway,
    GatewayAddress,
    GatewayClass,
    GatewayStatus,
    HTTPRoute,
    ListenerStatus,
    ParentReference,
    RouteKind,
    RouteParentStatus,
    RouteStatus,
)


def conditions_of(
    verdicts: Mapping[str, Verdict], before: Iterable[Condition], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions; the time of one whose status did not change stays. What others wrote stays."""
    known = {each.type: each for each in before}
    for kind, verdict in verdicts.items():
        status = "True" if verdict.holds else "False"
        old = known.get(kind)
        since = old.last_transition_time if old is not None and old.status == status else now
        known[kind] = Condition(
            type=kind,
            status=status,
            observed_generation=generation,
            last_transition_time=since,
            reason=verdict.reason,
            message=verdict.message or verdict.reason,  # required in the CRDs
        )
    return tuple(known[kind] for kind in sorted(known))


def class_status(each: GatewayClass, now: datetime) -> Conditions:
    """A class of ours is accepted."""
    accepted = {"Accepted": Verdict(True, "Accepted", "served by Tiphys")}
    return Conditions(conditions=conditions_of(accepted, each.status.conditions, each.metadata.generation or 0, now))


def gateway_status(
    gateway: Gateway, listeners: Sequence[ListenerVerdicts], addresses: Sequence[str], now: datetime
) -> GatewayStatus:
    """Of a Gateway whose listeners are judged."""
    generation = gateway.metadata.generation or 0
    before = {each.name: each.conditions for each in gateway.status.listeners}
    good = all(each.conditions["Accepted"].holds for each in listeners)
    verdicts = {
        "Accepted": Verdict(True, "Accepted") if good else Verdict(True, "ListenersNotValid", "see its listeners"),
        "Programmed": Verdict(True, "Programmed")
        if addresses and any(each.conditions["Programmed"].holds for each in listeners)
        else Verdict(False, "AddressNotAssigned" if not addresses else "Invalid"),
    }
    if listeners and not any(each.conditions["Accepted"].holds for each in listeners):
        verdicts["Accepted"] = Verdict(False, "ListenersNotValid", "none of its listeners can be served")
    return GatewayStatus(
        addresses=tuple(GatewayAddress(value=address) for address in addresses),
        conditions=conditions_of(verdicts, gateway.status.conditions, generation, now),
        listeners=tuple(
            ListenerStatus(
                name=each.name,
                supported_kinds=(RouteKind(group=GROUP, kind="HTTPRoute"),) if each.kinds_supported else (),
                attached_routes=each.attached,
                conditions=conditions_of(each.conditions, before.get(each.name, ()), generation, now),
            )
            for each in listeners
        ),
    )


def route_status(
    route: HTTPRoute, parents: Sequence[tuple[ParentReference, Mapping[str, Verdict]]], now: datetime
) -> RouteStatus:
    """Of a route at its parents here; what other controllers say of theirs stays."""
    others = [each for each in route.status.parents if each.controller_name != CONTROLLER]
    before = {each.parent_ref: each.conditions for each in route.status.parents if each.controller_name == CONTROLLER}
    generation = route.metadata.generation or 0
    ours = [
        RouteParentStatus(
            parent_ref=parent,
            controller_name=CONTROLLER,
            conditions=conditions_of(verdicts, before.get(parent, ()), generation, now),
        )
        for parent, verdicts in parents
    ]
    return replace(route.status, parents=(*others, *ours))
