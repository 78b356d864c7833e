"""What the cluster's names are made of: Services, their endpoints and the namespaces, ready for look-up.

    services   (namespace, name) → ServiceEntry
    endpoints  (namespace, name) → endpoints, put together from the Service's slices when first asked
    reverse    address → the Services and endpoints that have it

Fed by informers' handlers in the loop, so that a query reads plain dictionaries. `version` is
another after every change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tiphys.api.core.v1 import Namespace, Service
from tiphys.api.discovery.v1 import EndpointSlice

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"


class Key(NamedTuple):
    """A Service."""

    namespace: str
    name: str


class Port(NamedTuple):
    """A port by which SRV records are made; `protocol` in lower case."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """A Service: with cluster IPs, headless (none), or only another name."""

    key: Key
    ips: tuple[str, ...]
    ports: tuple[Port, ...]
    external_name: str = ""

    @property
    def is_headless(self) -> bool:
        return not self.ips and not self.external_name


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """One address behind a Service; `host` is its label: the pod's hostname, or the address with dashes."""

    ip: str
    host: str
    pod: str
    ports: tuple[Port, ...]


class ClusterData:
    """See the module."""

    def __init__(self) -> None:
        self.services: dict[Key, ServiceEntry] = {}
        self.namespaces: set[str] = set()
        self.serial = int(time.time())
        self.version = 0
        self._slices: dict[Key, dict[str, EndpointSlice]] = {}
        self._endpoints: dict[Key, tuple[EndpointEntry, ...]] = {}
        self._service_of_ip: dict[str, Key] = {}
        self._keys_of_endpoint: dict[str, set[Key]] = {}

    def endpoints(self, key: Key) -> Sequence[EndpointEntry]:
        """The endpoints of a Service that may be named: ready ones (all of them where the Service publishes all)."""
        known = self._endpoints.get(key)
        if known is None:
            made: dict[tuple[str, str], EndpointEntry] = {}
            for piece in self._slices.get(key, {}).values():
                for entry in _entries(piece):
                    before = made.get((entry.ip, entry.host))
                    ports = tuple(dict.fromkeys((*(before.ports if before else ()), *entry.ports)))
                    made[(entry.ip, entry.host)] = EndpointEntry(entry.ip, entry.host, entry.pod, ports)
            known = self._endpoints[key] = tuple(made.values())
        return known

    def service_of(self, ip: str) -> ServiceEntry | None:
        """The Service with a cluster IP."""
        key = self._service_of_ip.get(ip)
        return self.services.get(key) if key is not None else None

    def endpoints_of(self, ip: str) -> list[tuple[Key, EndpointEntry]]:
        """Every endpoint with an address."""
        keys = sorted(self._keys_of_endpoint.get(ip, ()))
        return [(key, each) for key in keys if key in self.services for each in self.endpoints(key) if each.ip == ip]

    # --- handlers --------------------------------------------------------------------------

    def put_service(self, service: Service) -> None:
        key = Key(service.metadata.namespace, service.metadata.name)
        self._forget_ips(key)
        spec = service.spec
        ips = tuple(ip for ip in (spec.cluster_ips or (spec.cluster_ip,)) if ip and ip != "None")
        external = spec.external_name.rstrip(".").lower() if spec.type == "ExternalName" else ""
        ports = tuple(Port(port.name or "", (port.protocol or "TCP").lower(), port.port) for port in spec.ports)
        self.services[key] = ServiceEntry(key, () if external else ips, ports, external)
        for ip in () if external else ips:
            self._service_of_ip[ip] = key
        self._touch()

    def drop_service(self, service: Service) -> None:
        key = Key(service.metadata.namespace, service.metadata.name)
        self._forget_ips(key)
        self.services.pop(key, None)
        self._touch()

    def put_slice(self, piece: EndpointSlice) -> None:
        name = piece.metadata.labels.get(SERVICE_NAME_LABEL, "")
        if not name or piece.address_type == "FQDN":
            return
        key = Key(piece.metadata.namespace, name)
        self._slices.setdefault(key, {})[piece.metadata.name] = piece
        self._endpoints.pop(key, None)
        for endpoint in piece.endpoints:
            for address in endpoint.addresses:
                self._keys_of_endpoint.setdefault(address, set()).add(key)
        self._touch()

    def update_slice(self, old: EndpointSlice, new: EndpointSlice) -> None:
        self.drop_slice(old)
        self.put_slice(new)

    def drop_slice(self, piece: EndpointSlice) -> None:
        key = Key(piece.metadata.namespace, piece.metadata.labels.get(SERVICE_NAME_LABEL, ""))
        pieces = self._slices.get(key, {})
        pieces.pop(piece.metadata.name, None)
        if not pieces:
            self._slices.pop(key, None)
        self._endpoints.pop(key, None)
        kept = {address for other in pieces.values() for each in other.endpoints for address in each.addresses}
        for endpoint in piece.endpoints:
            for address in endpoint.addresses:
                keys = self._keys_of_endpoint.get(address)
                if keys is not None and address not in kept:
                    keys.discard(key)
                    if not keys:
                        del self._keys_of_endpoint[address]
        self._touch()

    def put_namespace(self, namespace: Namespace) -> None:
        self.namespaces.add(namespace.metadata.name)
        self.version += 1

    def drop_namespace(self, namespace: Namespace) -> None:
        self.namespaces.discard(namespace.metadata.name)
        self.version += 1

    def _forget_ips(self, key: Key) -> None:
        old = self.services.get(key)
        for ip in old.ips if old is not None else ():
            if self._service_of_ip.get(ip) == key:
                del self._service_of_ip[ip]

    def _touch(self) -> None:
        self.serial = int(time.time())
        self.version += 1


def _entries(piece: EndpointSlice) -> list[EndpointEntry]:
    ports = tuple(Port(port.name or "", (port.protocol or "TCP").lower(), port.port or 0) for port in piece.ports)
    made = []
    for endpoint in piece.endpoints:
        # Unknown is to be taken for ready; a Service that publishes all has every endpoint ready.
        if endpoint.conditions is not None and endpoint.conditions.ready is False:
            continue
        for address in endpoint.addresses:
            host = (endpoint.hostname or "").lower() or address.replace(".", "-").replace(":", "-")
            pod = endpoint.target_ref.name or "" if endpoint.target_ref is not None else ""
            made.append(EndpointEntry(address, host, pod, ports))
    return made
