"""What is behind a Service port: its endpoints as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tiphys.api.core.v1 import Service
from tiphys.api.core.v1 import ServicePort as ApiPort
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.client.cache import Lister
from tiphys.client.endpoint import Object
from tiphys.ingress.model import ServicePort
from tiphys.machinery.meta import ObjectName

SERVICE_NAME: Final = "kubernetes.io/service-name"
BY_SERVICE: Final = "service"


def index_by_service(piece: EndpointSlice) -> list[str]:
    """For the informer's index: the Service a slice is of, as namespace/name."""
    name = piece.metadata.labels.get(SERVICE_NAME, "")
    return [f"{piece.metadata.namespace}/{name}"] if name else []


def age(each: Object) -> tuple[str, str, str]:
    """A key that sorts objects from old to young: of two that want the same, the older has it."""
    created = each.metadata.creation_timestamp
    return (created.isoformat() if created else "", each.metadata.namespace, each.metadata.name)


class Services:
    """Service ports and their endpoints, out of the informers' caches."""

    def __init__(self, services: Lister[Service], slices: Lister[EndpointSlice]) -> None:
        self._services = services
        self._slices = slices

    def exists(self, namespace: str, name: str) -> bool:
        """Whether there is such a Service."""
        return self._services.get(ObjectName(namespace, name)) is not None

    def port(self, namespace: str, name: str, wanted: int | str) -> ServicePort | None:
        """A port by number or name; None when the Service or the port is not there."""
        found = self._port(namespace, name, wanted)
        return None if found is None else ServicePort(namespace, name, found.port)

    def protocol(self, port: ServicePort) -> str:
        """What its appProtocol says about HTTP: HTTP, HTTPS or H2C (KEP-3726)."""
        found = self._port(port.namespace, port.service, port.port)
        said = (found.app_protocol or "").lower() if found is not None else ""
        return {"kubernetes.io/h2c": "H2C", "grpc": "H2C", "https": "HTTPS"}.get(said, "HTTP")

    def endpoints(self, port: ServicePort) -> Sequence[tuple[str, int]]:
        """Address and port of each endpoint that takes requests; when none is ready, of those that still serve.

        A Service of type ExternalName has none: its name is not looked up here.
        """
        service = self._services.get(ObjectName(port.namespace, port.service))
        found = self._port(port.namespace, port.service, port.port)
        if service is None or found is None:
            return ()
        ready: set[tuple[str, int]] = set()
        draining: set[tuple[str, int]] = set()
        for piece in self._slices.by_index(BY_SERVICE, f"{port.namespace}/{port.service}"):
            number = next((each.port for each in piece.ports if (each.name or "") == found.name), None)
            if number is None or piece.address_type not in ("IPv4", "IPv6"):
                continue
            for endpoint in piece.endpoints:
                state = endpoint.conditions
                if state is None or state.ready is not False:
                    ready.update((address, number) for address in endpoint.addresses[:1])
                elif state.serving and state.terminating:
                    draining.update((address, number) for address in endpoint.addresses[:1])
        return sorted(ready or draining)

    def _port(self, namespace: str, name: str, wanted: int | str) -> ApiPort | None:
        service = self._services.get(ObjectName(namespace, name))
        if service is None:
            return None
        for each in service.spec.ports:
            if wanted == (each.port if isinstance(wanted, int) else each.name) and each.protocol in ("TCP", ""):
                return each
        return None
