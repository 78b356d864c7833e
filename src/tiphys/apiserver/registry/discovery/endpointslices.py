"""EndpointSlices. https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import NONE, UNSET, more
from tiphys.apiserver.registry.validation.meta import validate_immutable, validate_label_name, validate_labels
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

ADDRESS_TYPES: Final = ("FQDN", "IPv4", "IPv6")
PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
MAX_ENDPOINTS: Final = 1000
MAX_ADDRESSES: Final = 100
MAX_PORTS: Final = 20000
MAX_ZONE_HINTS: Final = 8
MAX_TOPOLOGY: Final = 16
SHOWN: Final = 3


class EndpointSliceStrategy(TableStrategy):
    """Rules of endpoint slices."""

    def default(self, obj: Object) -> None:
        for port in obj.get("ports") or ():
            if port.get("name") is None:
                port["name"] = ""
            if port.get("protocol") is None:
                port["protocol"] = "TCP"

    def spec_changed(self, new: Object, old: Object) -> bool:
        """Labels count too: a slice belongs to a service by them."""
        return super().spec_changed(new, old) or new["metadata"].get("labels") != old["metadata"].get("labels")

    def validate(self, obj: Object) -> list[FieldError]:
        kind = obj.get("addressType") or ""
        errors: list[FieldError] = []
        if not kind:
            errors.append(field.required(Path("addressType"), ""))
        elif kind not in ADDRESS_TYPES:
            errors.append(field.not_supported(Path("addressType"), kind, ADDRESS_TYPES))
        errors += _endpoints_errors(obj.get("endpoints") or (), kind)
        return errors + _ports_errors(obj.get("ports") or ())

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        kind = validate_immutable(new.get("addressType"), old.get("addressType"), Path("addressType"))
        if kind:
            return kind
        return self.validate(new)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        ports = [str(port.get("port")) if port.get("port") else UNSET for port in obj.get("ports") or ()]
        addresses = [text for one in obj.get("endpoints") or () for text in one.get("addresses") or ()]
        shown = more(ports, SHOWN) if ports else UNSET
        return [
            name_of(obj),
            obj.get("addressType") or "",
            shown,
            more(addresses, SHOWN) if addresses else (UNSET if obj.get("endpoints") is None else NONE),
            age(obj, now),
        ]


def _endpoints_errors(endpoints: Sequence[Object], kind: str) -> list[FieldError]:
    path = Path("endpoints")
    if len(endpoints) > MAX_ENDPOINTS:
        return [field.too_many(path, len(endpoints), MAX_ENDPOINTS)]
    errors: list[FieldError] = []
    for index, endpoint in enumerate(endpoints):
        errors += _endpoint_errors(endpoint, kind, path.index(index))
    return errors


def _endpoint_errors(endpoint: Object, kind: str, path: Path) -> list[FieldError]:
    addresses = endpoint.get("addresses") or ()
    where = path.child("addresses")
    errors: list[FieldError] = []
    if not addresses:
        errors.append(field.required(where, "must contain at least 1 address"))
    elif len(addresses) > MAX_ADDRESSES:
        errors.append(field.too_many(where, len(addresses), MAX_ADDRESSES))
    for index, text in enumerate(addresses):
        errors += _address_errors(text, kind, where, where.index(index))
    if (node := endpoint.get("nodeName")) is not None:
        errors += [field.invalid(path.child("nodeName"), node, message) for message in formats.dns1123_subdomain(node)]
    topology = endpoint.get("deprecatedTopology") or {}
    if len(topology) > MAX_TOPOLOGY:
        errors.append(field.too_many(path.child("deprecatedTopology"), len(topology), MAX_TOPOLOGY))
    errors += validate_labels(topology, path.child("deprecatedTopology"))
    if (host := endpoint.get("hostname")) is not None:
        errors += [field.invalid(path.child("hostname"), host, message) for message in formats.dns1123_label(host)]
    return errors + _hint_errors(endpoint.get("hints") or {}, path.child("hints"))


def _address_errors(text: str, kind: str, path: Path, at: Path) -> list[FieldError]:
    if kind == "FQDN":
        return [field.invalid(at, text, message) for message in formats.dns1123_subdomain(text)]
    if kind not in ("IPv4", "IPv6"):
        return []
    messages = formats.ip_address(text)
    if messages:
        return [field.invalid(at, text, message) for message in messages]
    errors: list[FieldError] = []
    if f"IPv{ipaddress.ip_address(text).version}" != kind:
        errors.append(field.invalid(path, text, f"must be an {kind} address"))
    return errors + [field.invalid(at, text, message) for message in formats.non_special_ip(text)]


def _hint_errors(hints: Object, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for kind in ("forZones", "forNodes"):
        listed = hints.get(kind) or ()
        where = path.child(kind)
        if len(listed) > MAX_ZONE_HINTS:
            errors.append(field.too_many(where, len(listed), MAX_ZONE_HINTS))
            continue
        seen: set[str] = set()
        for index, hint in enumerate(listed):
            name = hint.get("name") or ""
            at = where.index(index).child("name")
            if name in seen:
                errors.append(field.duplicate(at, name))
            elif kind == "forZones":
                errors += validate_label_name(name, at)
            else:
                errors += [field.invalid(at, name, message) for message in formats.dns1123_subdomain(name)]
            seen.add(name)
    return errors


def _ports_errors(ports: Sequence[Object]) -> list[FieldError]:
    path = Path("ports")
    if len(ports) > MAX_PORTS:
        return [field.too_many(path, len(ports), MAX_PORTS)]
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        where = path.index(index)
        name, protocol = port.get("name") or "", port.get("protocol") or ""
        if name:
            errors += [field.invalid(where.child("name"), name, message) for message in formats.dns1123_label(name)]
        if name in names:
            errors.append(field.duplicate(where.child("name"), name))
        names.add(name)
        if not protocol:
            errors.append(field.required(where.child("protocol"), ""))
        elif protocol not in PROTOCOLS:
            errors.append(field.not_supported(where.child("protocol"), protocol, PROTOCOLS))
        if (application := port.get("appProtocol")) is not None:
            errors += validate_label_name(application, where.child("appProtocol"))
    return errors
