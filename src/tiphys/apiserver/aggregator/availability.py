"""Availability: whether the server behind an APIService can be used, as the condition Available says.

    Service ─ its port ─ its EndpointSlices ─ an address in them ─ an answer to GET /apis/GROUP/VERSION

The first link that is missing gives the reason. Reasons and messages are upstream's: alerts are written for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tiphys.apiserver.aggregator.apiservices import AVAILABLE, Registration, ServiceReference, available_condition
from tiphys.apiserver.aggregator.identity import AGGREGATOR
from tiphys.apiserver.aggregator.transport import NoEndpointError, Transport, TransportError
from tiphys.apiserver.registry.strategy import Reader
from tiphys.apiserver.service_endpoints import ready_endpoints, service_slices
from tiphys.machinery.meta import ObjectName

CHECK_TIMEOUT: Final = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the condition should say."""

    available: bool
    reason: str
    message: str


LOCAL: Final = Verdict(True, "Local", "Local APIServices are always available")
PASSED: Final = Verdict(True, "Passed", "all checks passed")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the cluster decides whether a server can be reached; equal values need no new check."""

    service: Mapping[str, Any] | None  # spec of the Service
    slices: Sequence[Mapping[str, Any]]  # ports and endpoints of its EndpointSlices


def surroundings(reader: Reader, reference: ServiceReference) -> Surroundings:
    """Look at the Service and its EndpointSlices."""
    service = reader.get("", "services", ObjectName(reference.namespace, reference.name))
    if service is None:
        return Surroundings(None, [])
    slices = [
        {"ports": one.get("ports"), "endpoints": one.get("endpoints")}
        for one in service_slices(reader, reference.namespace, reference.name)
    ]
    return Surroundings(service.get("spec") or {}, slices)


def missing_link(reference: ServiceReference, around: Surroundings) -> Verdict | None:
    """Why the server cannot even be asked; None when it can."""
    where = f'service/{reference.name} in "{reference.namespace}"'
    if around.service is None:
        return Verdict(False, "ServiceNotFound", f"{where} is not present")
    if around.service.get("type", "ClusterIP") != "ClusterIP":
        return None  # other kinds need not have endpoints
    ports = around.service.get("ports") or ()
    port = next((one for one in ports if one.get("port") == reference.port), None)
    if port is None:
        return Verdict(False, "ServicePortError", f"{where} is not listening on port {reference.port}")
    if not around.slices:
        return Verdict(False, "EndpointsNotFound", f"cannot find endpointslices for {where}")
    name = port.get("name") or ""
    if not ready_endpoints(around.slices, name):
        message = f'endpointslices for {where} have no addresses with port name "{name}"'
        return Verdict(False, "MissingEndpoints", message)
    return None


async def check(transport: Transport, one: Registration, around: Surroundings) -> Verdict:
    """Whether the server of `one` answers now."""
    assert one.service is not None
    missing = missing_link(one.service, around)
    if missing is not None:
        return missing
    where = f"https://{one.service.server_name}:{one.service.port}{one.path}"
    try:
        where = f"{transport.address(one)}{one.path}"
        answer = await transport.fetch(one, one.path, AGGREGATOR, timeout=CHECK_TIMEOUT)
    except NoEndpointError as error:
        return Verdict(False, "FailedDiscoveryCheck", str(error))
    except TransportError as error:
        return Verdict(False, "FailedDiscoveryCheck", f"failing or missing response from {where}: {error}")
    if 200 <= answer.status < 300:
        return PASSED
    why = f"bad status from {where}: {answer.status}"
    return Verdict(False, "FailedDiscoveryCheck", f"failing or missing response from {where}: {why}")


def condition(verdict: Verdict, obj: Mapping[str, Any], now: str) -> dict[str, str] | None:
    """The condition an APIService should have; None when it has it. The time is of the last change of status."""
    wanted = {
        "type": AVAILABLE,
        "status": "True" if verdict.available else "False",
        "lastTransitionTime": now,
        "reason": verdict.reason,
        "message": verdict.message,
    }
    known = available_condition(obj)
    if known is not None and known.get("status") == wanted["status"]:
        wanted["lastTransitionTime"] = known.get("lastTransitionTime") or now
    return None if known == wanted else wanted


def put(wanted: dict[str, str], obj: dict[str, Any]) -> None:
    """Set the condition in an APIService."""
    status = obj.get("status") or {}
    others = [one for one in status.get("conditions") or () if one.get("type") != AVAILABLE]
    obj["status"] = {**status, "conditions": [*others, wanted]}
