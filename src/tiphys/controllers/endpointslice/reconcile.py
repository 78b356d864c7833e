"""Fits endpoints into slices of at most 100, with as few writes as possible. Pure.

    wanted endpoints, by their ports          slices there are, by their ports
    {http 8080}: a b c d                      {http 8080}: [a b x] [d]

First every slice keeps what is still wanted, brought up to date; then new endpoints go into slices
that change anyway or have room; then new slices are made; slices left empty are deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from tiphys.api.discovery.v1 import Endpoint, EndpointPort, EndpointSlice
from tiphys.api.meta.v1 import ObjectMeta, OwnerReference

SERVICE_NAME: Final = "kubernetes.io/service-name"
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
HEADLESS: Final = "service.kubernetes.io/headless"
TRIGGER_TIME: Final = "endpoints.kubernetes.io/last-change-trigger-time"

Ports = tuple[EndpointPort, ...]


@dataclass(slots=True)
class Plan:
    """What to write."""

    create: list[EndpointSlice] = field(default_factory=list)
    update: list[EndpointSlice] = field(default_factory=list)
    delete: list[EndpointSlice] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What the slices of one Service have in common."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    reference: OwnerReference
    trigger_time: str
    annotations: Mapping[str, str] = field(default_factory=dict)


def plan(
    owner: Owner,
    address_type: str,
    wanted: Mapping[Ports, Sequence[Endpoint]],
    existing: Sequence[EndpointSlice],
    limit: int,
) -> Plan:
    """The writes that make the slices of one address family hold exactly the `wanted` endpoints."""
    result = Plan()
    spare: list[EndpointSlice] = []
    groups = dict(wanted) or {(): ()}
    for ports, endpoints in groups.items():
        mine = [one for one in existing if _same_ports(one.ports, ports)]
        _fit(owner, address_type, ports, endpoints, mine, limit, result, spare)
    spare += [one for one in existing if not any(_same_ports(one.ports, ports) for ports in groups)]
    if not any(groups.values()):
        _keep_placeholder(owner, address_type, spare, result)
    result.delete += spare
    return result


def _fit(
    owner: Owner,
    address_type: str,
    ports: Ports,
    endpoints: Sequence[Endpoint],
    mine: Sequence[EndpointSlice],
    limit: int,
    result: Plan,
    spare: list[EndpointSlice],
) -> None:
    """Bring the slices of one set of ports to hold `endpoints`; empty ones go to `spare`."""
    left = {_identity(endpoint): endpoint for endpoint in endpoints}
    contents: list[list[Endpoint]] = []
    for one in mine:
        kept = [left.pop(_identity(old)) for old in one.endpoints if _identity(old) in left]
        contents.append(kept)
    added = list(left.values())
    # Slices that change anyway come first, then the fullest: so few slices are written, and few stay half empty.
    order = sorted(range(len(mine)), key=lambda i: (tuple(contents[i]) == mine[i].endpoints, -len(contents[i])))
    for i in order:
        room = limit - len(contents[i])
        if added and contents[i] and room > 0:
            contents[i] += added[:room]
            added = added[room:]
    for one, content in zip(mine, contents, strict=True):
        if not content:
            if added:
                content, added = added[:limit], added[limit:]
            else:
                spare.append(one)
                continue
        updated = _labelled(owner, replace(one, endpoints=tuple(content)))
        if not _equal(updated, one):
            result.update.append(_stamped(owner, updated))
    while added:
        chunk, added = added[:limit], added[limit:]
        result.create.append(_new(owner, address_type, ports, tuple(chunk)))


def _keep_placeholder(owner: Owner, address_type: str, spare: list[EndpointSlice], result: Plan) -> None:
    """A Service without endpoints has one empty slice, so that its readers know there are none."""
    if not spare:
        result.create.append(_new(owner, address_type, (), ()))
        return
    kept = next((one for one in spare if not one.endpoints and not one.ports), spare[0])
    spare.remove(kept)
    updated = _labelled(owner, replace(kept, endpoints=(), ports=()))
    if not _equal(updated, kept):
        result.update.append(_stamped(owner, updated))


def _identity(endpoint: Endpoint) -> tuple[str, ...]:
    reference = endpoint.target_ref
    return (reference.uid if reference is not None else "", *endpoint.addresses)


def _same_ports(one: Sequence[EndpointPort], other: Sequence[EndpointPort]) -> bool:
    return sorted(map(repr, one)) == sorted(map(repr, other))


def _labelled(owner: Owner, one: EndpointSlice) -> EndpointSlice:
    kept = {key: value for key, value in one.metadata.annotations.items() if key == TRIGGER_TIME}
    metadata = replace(one.metadata, labels=dict(owner.labels), annotations={**owner.annotations, **kept})
    return replace(one, metadata=metadata)


def _stamped(owner: Owner, one: EndpointSlice) -> EndpointSlice:
    annotations = {**one.metadata.annotations, TRIGGER_TIME: owner.trigger_time}
    return replace(one, metadata=replace(one.metadata, annotations=annotations))


def _equal(one: EndpointSlice, other: EndpointSlice) -> bool:
    return (
        one.endpoints == other.endpoints
        and one.ports == other.ports
        and dict(one.metadata.labels) == dict(other.metadata.labels)
        and dict(one.metadata.annotations) == dict(other.metadata.annotations)
    )


def _new(owner: Owner, address_type: str, ports: Ports, endpoints: tuple[Endpoint, ...]) -> EndpointSlice:
    metadata = ObjectMeta(
        generate_name=f"{owner.name}-",
        namespace=owner.namespace,
        labels=dict(owner.labels),
        annotations={**owner.annotations, TRIGGER_TIME: owner.trigger_time},
        owner_references=(owner.reference,),
    )
    return EndpointSlice(metadata=metadata, address_type=address_type, endpoints=endpoints, ports=ports)
