"""Endpoints (deprecated since v1.33 in favour of EndpointSlice).

https://kubernetes.io/docs/concepts/services-networking/service/#endpoints
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import NONE
from tiphys.apiserver.registry.validation.handlers import validate_port
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
DEPRECATED: Final = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
# How many addresses a row shows.
SHOWN: Final = 3


class EndpointsStrategy(TableStrategy):
    """Rules of endpoints."""

    allow_create_on_update: ClassVar[bool] = True

    def default(self, obj: Object) -> None:
        for subset in obj.get("subsets") or ():
            for port in subset.get("ports") or ():
                if not port.get("protocol"):
                    port["protocol"] = "TCP"

    def validate(self, obj: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        for index, subset in enumerate(obj.get("subsets") or ()):
            errors += _subset_errors(subset, Path("subsets").index(index))
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        return [DEPRECATED]

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), _shown(obj), age(obj, now)]


def _subset_errors(subset: Object, path: Path) -> list[FieldError]:
    addresses, waiting = subset.get("addresses") or (), subset.get("notReadyAddresses") or ()
    errors: list[FieldError] = []
    if not addresses and not waiting:
        errors.append(field.required(path, "must specify `addresses` or `notReadyAddresses`"))
    for kind, listed in (("addresses", addresses), ("notReadyAddresses", waiting)):
        for index, address in enumerate(listed):
            errors += _address_errors(address, path.child(kind).index(index))
    ports = subset.get("ports") or ()
    for index, port in enumerate(ports):
        errors += _port_errors(port, len(ports) > 1, path.child("ports").index(index))
    return errors


def _address_errors(address: Object, path: Path) -> list[FieldError]:
    text = address.get("ip") or ""
    errors = [field.invalid(path.child("ip"), text, message) for message in formats.ip_address(text)]
    if host := address.get("hostname"):
        errors += [field.invalid(path.child("hostname"), host, message) for message in formats.dns1123_label(host)]
    if (node := address.get("nodeName")) is not None:
        errors += [field.invalid(path.child("nodeName"), node, message) for message in formats.dns1123_subdomain(node)]
    if formats.parse_ip_sloppy(text) is None:
        errors.append(field.invalid(path.child("ip"), text, "must be a valid IP address"))
    errors += [field.invalid(path.child("ip"), text, message) for message in formats.non_special_ip(text)]
    return errors


def _port_errors(port: Object, require_name: bool, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if name := port.get("name"):
        errors += [field.invalid(path.child("name"), name, message) for message in formats.dns1123_label(name)]
    elif require_name:
        errors.append(field.required(path.child("name"), ""))
    errors += validate_port(port.get("port") or 0, path.child("port"))
    protocol = port.get("protocol") or ""
    if not protocol:
        errors.append(field.required(path.child("protocol"), ""))
    elif protocol not in PROTOCOLS:
        errors.append(field.not_supported(path.child("protocol"), protocol, PROTOCOLS))
    if (application := port.get("appProtocol")) is not None:
        errors += validate_label_name(application, path.child("appProtocol"))
    return errors


def _shown(endpoints: Object) -> str:
    """The first ready addresses with their ports."""
    found: list[str] = []
    for subset in endpoints.get("subsets") or ():
        addresses = [one.get("ip", "") for one in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        if not ports:
            found += addresses
        for port in ports:
            found += [f"[{ip}]:{port.get('port')}" if ":" in ip else f"{ip}:{port.get('port')}" for ip in addresses]
    if not found:
        return NONE
    text = ",".join(found[:SHOWN])
    return f"{text} + {len(found) - SHOWN} more..." if len(found) > SHOWN else text
