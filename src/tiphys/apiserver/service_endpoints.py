"""Where a Service answers, for what this server calls itself: webhooks and extension API servers.

The server need not be on a node, so a cluster address would not lead anywhere: requests go to a ready endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tiphys.apiserver.registry.strategy import Reader

SERVICE_LABEL: Final = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a service answers; `node` is the one its pod runs on, "" when it is not said."""

    address: str
    port: int
    node: str = ""


def service_slices(reader: Reader, namespace: str, name: str) -> list[Mapping[str, Any]]:
    """The EndpointSlices of a service."""
    slices = reader.list("discovery.k8s.io", "endpointslices", namespace)
    return [one for one in slices if (one["metadata"].get("labels") or {}).get(SERVICE_LABEL) == name]


def ready_endpoints(slices: Sequence[Mapping[str, Any]], port_name: str) -> list[Endpoint]:
    """The ready endpoints of a port, in the order of the slices."""
    found = []
    for part in slices:
        ports = part.get("ports") or ()
        numbers = [one["port"] for one in ports if one.get("port") and (one.get("name") or "") == port_name]
        for endpoint in part.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            node = endpoint.get("nodeName") or ""
            addresses = endpoint.get("addresses") or ()
            found += [Endpoint(address, number, node) for address in addresses for number in numbers]
    return found
