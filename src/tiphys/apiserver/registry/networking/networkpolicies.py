"""NetworkPolicies. https://kubernetes.io/docs/concepts/services-networking/network-policies/"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import selector_text
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
PROTOCOLS: Final = ("TCP", "UDP", "SCTP")


class NetworkPolicyStrategy(TableStrategy):
    """Rules of network policies."""

    counts_emptied: ClassVar[bool] = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        for direction in ("ingress", "egress"):
            for rule in spec.get(direction) or ():
                for port in rule.get("ports") or ():
                    if port.get("protocol") is None:
                        port["protocol"] = "TCP"
        if not spec.get("policyTypes"):
            spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = validate_label_selector(spec.get("podSelector"), SPEC.child("podSelector"))
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for index, rule in enumerate(spec.get(direction) or ()):
                errors += _rule_errors(rule, peers, SPEC.child(direction).index(index))
        kinds = list(spec.get("policyTypes") or ())
        where = SPEC.child("policyTypes")
        if len(kinds) > 2:
            errors.append(field.invalid(where, kinds, "may not specify more than two policyTypes"))
            return errors
        for index, kind in enumerate(kinds):
            if kind not in ("Egress", "Ingress"):
                errors.append(field.not_supported(where.index(index), kind, ["Ingress", "Egress"]))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), selector_text(spec_of(obj).get("podSelector") or {}), age(obj, now)]


def _rule_errors(rule: Json, peers: str, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, port in enumerate(rule.get("ports") or ()):
        errors += _port_errors(port, path.child("ports").index(index))
    for index, peer in enumerate(rule.get(peers) or ()):
        errors += _peer_errors(peer, path.child(peers).index(index))
    return errors


def _port_errors(port: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    protocol, number, end = port.get("protocol"), port.get("port"), port.get("endPort")
    if protocol is not None and protocol not in PROTOCOLS:
        errors.append(field.not_supported(path.child("protocol"), protocol, PROTOCOLS))
    where = path.child("endPort")
    if number is None:
        if end is not None:
            errors.append(field.invalid(where, end, "may not be specified when `port` is not specified"))
        return errors
    if isinstance(number, int):
        errors += [field.invalid(path.child("port"), number, message) for message in formats.port_number(number)]
        if end is not None:
            if end < number:
                errors.append(field.invalid(where, number, "must be greater than or equal to `port`"))
            errors += [field.invalid(where, end, message) for message in formats.port_number(end)]
    else:
        if end is not None:
            errors.append(field.invalid(where, end, "may not be specified when `port` is non-numeric"))
        errors += [field.invalid(path.child("port"), number, message) for message in formats.port_name(number)]
    return errors


def _peer_errors(peer: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    count = 0
    for name in ("podSelector", "namespaceSelector"):
        if peer.get(name) is not None:
            count += 1
            errors += validate_label_selector(peer[name], path.child(name))
    block = peer.get("ipBlock")
    if block is not None:
        count += 1
        errors += _block_errors(block, path.child("ipBlock"))
    if not count:
        errors.append(field.required(path, "must specify a peer"))
    elif count > 1 and block is not None:
        errors.append(field.forbidden(path, "may not specify both ipBlock and another peer"))
    return errors


def _block_errors(block: Json, path: Path) -> list[FieldError]:
    text = block.get("cidr") or ""
    if not text:
        return [field.required(path.child("cidr"), "")]
    errors = [field.invalid(path.child("cidr"), text, message) for message in formats.cidr(text)]
    outer = formats.parse_cidr_sloppy(text)
    for index, part in enumerate(block.get("except") or ()):
        where = path.child("except").index(index)
        found = [field.invalid(where, part, message) for message in formats.cidr(part)]
        errors += found
        inner = formats.parse_cidr_sloppy(part)
        if found or outer is None or inner is None:
            continue
        network, excluded = (ipaddress.ip_network(one, strict=False) for one in (outer, inner))
        if network.version != excluded.version or not _strictly_inside(excluded, network):
            errors.append(field.invalid(where, part, "must be a strict subset of `cidr`"))
    return errors


def _strictly_inside(inner: formats.IPNetwork, outer: formats.IPNetwork) -> bool:
    return inner.prefixlen > outer.prefixlen and inner.network_address in outer
