"""What BGP is to do, as an administrator writes it: the key `bgp.yaml` of the ConfigMap kube-system/tiphys-network.

    asNumber: 64512                # of every node
    nodeMesh: true                 # every node speaks to every other; without it there must be reflectors
    routeReflectors: [node-1]      # nodes that pass on what the others tell them; the others speak to these only
    peers:                         # routers beside the cluster
    - address: 192.0.2.1
      asNumber: 64513
      nodes: [node-1]              # who speaks to it; nobody named: every node
      imports: [198.51.100.0/24]   # what is believed of it; nothing named: nothing

Routers are told the pods' ranges and the addresses of load balancers.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Final

import yaml

DEFAULT_AS: Final = 64512  # the first of those for private use (RFC 6996)
MAX_AS: Final = (1 << 32) - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A peer that is no node."""

    address: str
    as_number: int
    nodes: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BgpSettings:
    """See the module."""

    as_number: int = DEFAULT_AS
    node_mesh: bool = True
    route_reflectors: tuple[str, ...] = ()
    peers: tuple[Router, ...] = ()

    @classmethod
    def parse(cls, text: str) -> BgpSettings:
        """Of the YAML document; an empty one is the default. Raises ValueError that names the field."""
        try:
            found = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"bgp.yaml: {' '.join(str(error).split())}") from None
        if not isinstance(found, dict):
            raise ValueError("bgp.yaml: not an object")
        unknown = found.keys() - {"asNumber", "nodeMesh", "routeReflectors", "peers"}
        if unknown:
            raise ValueError(f"bgp.yaml: unknown field {sorted(unknown)[0]}")
        reflectors = _names(found.get("routeReflectors"), "routeReflectors")
        return cls(
            as_number=_as_number(found.get("asNumber", DEFAULT_AS), "asNumber"),
            # With reflectors the mesh is what they replace.
            node_mesh=bool(found.get("nodeMesh", not reflectors)),
            route_reflectors=reflectors,
            peers=tuple(_router(each, f"peers[{index}]") for index, each in enumerate(found.get("peers") or ())),
        )


def _router(found: Any, where: str) -> Router:
    if not isinstance(found, dict):
        raise ValueError(f"bgp.yaml: {where}: not an object")
    try:
        address = str(ipaddress.ip_address(found.get("address", "")))
        imports = tuple(str(ipaddress.ip_network(each)) for each in found.get("imports") or ())
    except ValueError as error:
        raise ValueError(f"bgp.yaml: {where}: {error}") from None
    return Router(
        address=address,
        as_number=_as_number(found.get("asNumber"), f"{where}.asNumber"),
        nodes=_names(found.get("nodes"), f"{where}.nodes"),
        imports=imports,
    )


def _as_number(value: Any, where: str) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_AS:
        raise ValueError(f"bgp.yaml: {where}: not a number of an autonomous system: {value!r}")
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value or [], list) or not all(isinstance(each, str) for each in value or ()):
        raise ValueError(f"bgp.yaml: {where}: not a list of names")
    return tuple(value or ())
