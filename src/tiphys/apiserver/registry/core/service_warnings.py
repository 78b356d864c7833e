"""Warnings for services: deprecated annotations and fields, addresses in odd spelling."""

from __future__ import annotations

import ipaddress
from typing import Final

from tiphys.apiserver.registry.kinds import spec_of
from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.validation.pod_warnings import ip_warnings
from tiphys.machinery.field import Path, quote
from tiphys.machinery.formats import canonical_cidr, parse_cidr_sloppy

SPEC: Final = Path("spec")
HINTS: Final = "service.kubernetes.io/topology-aware-hints"
MODE: Final = "service.kubernetes.io/topology-mode"


def service_warnings(service: Object, old: Object | None) -> list[str]:
    """Warnings of a service that is created or changed."""
    spec, warnings = spec_of(service), []
    external = spec.get("type") == "ExternalName"
    if HINTS in (service["metadata"].get("annotations") or {}):
        warnings.append(f"annotation {HINTS} is deprecated, please use {MODE} instead")
    if spec.get("externalIPs") and not external:
        warnings.append("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
    if old is None or old.get("spec") != spec:
        warnings += _address_warnings(spec)
    if external and spec.get("externalIPs"):
        warnings.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
    if not external and spec.get("externalName"):
        warnings.append('spec.externalName is ignored when spec.type is not "ExternalName"')
    if spec.get("trafficDistribution") == "PreferClose":
        warnings.append('spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"')
    return warnings


def _address_warnings(spec: Object) -> list[str]:
    """Warnings about how addresses are written."""
    warnings: list[str] = []
    for index, address in enumerate(spec.get("clusterIPs") or ()):
        warnings += ip_warnings(address, SPEC.child("clusterIPs").index(index))
    for index, address in enumerate(spec.get("externalIPs") or ()):
        warnings += ip_warnings(address, SPEC.child("externalIPs").index(index))
    warnings += ip_warnings(spec.get("loadBalancerIP") or "", SPEC.child("loadBalancerIP"))
    for index, text in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        warnings += _cidr_warnings(text, SPEC.child("loadBalancerSourceRanges").index(index))
    return warnings


def _cidr_warnings(text: str, path: Path) -> list[str]:
    parsed = parse_cidr_sloppy(text.strip())
    if parsed is None or not canonical_cidr(text.strip()):
        return []
    network = ipaddress.ip_network(parsed, strict=False)
    if network.network_address != parsed[0]:
        either = f"{parsed[0]}/{parsed[0].max_prefixlen}"
        return [
            (
                f"{path}: CIDR value {quote(text)} is ambiguous in this context "
                f"(should be {quote(str(network))} or {quote(either)}?)"
            )
        ]
    return [f"{path}: non-standard CIDR value {quote(text)} is invalid: use {quote(str(network))}"]
