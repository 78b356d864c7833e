"""Ingresses. https://kubernetes.io/docs/concepts/services-networking/ingress/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.core.service_validation import ingress_address_errors
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import NONE, more
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
CLASS_ANNOTATION: Final = "kubernetes.io/ingress.class"
PATH_TYPES: Final = ("Exact", "ImplementationSpecific", "Prefix")
BAD_SEQUENCES: Final = ("//", "/./", "/../", "%2f", "%2F")
BAD_SUFFIXES: Final = ("/..", "/.")
DEPRECATED: Final = f"annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"
SHOWN: Final = 3


class IngressStrategy(StatusStrategy):
    """Rules of ingresses."""

    initial_status: ClassVar[Mapping[str, Any]] = {"loadBalancer": {}}

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = _spec_errors(spec)
        annotated = (obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION)
        wanted = spec.get("ingressClassName")
        if annotated and wanted is not None and annotated != wanted:
            where = Path("annotations").child(CLASS_ANNOTATION)
            detail = "must match `ingressClassName` when both are specified"
            errors.append(field.invalid(where, annotated, detail))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return _spec_errors(spec_of(new))

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        balancer = status_of(new).get("loadBalancer") or {}
        for index, ingress in enumerate(balancer.get("ingress") or ()):
            errors += ingress_address_errors(ingress, Path("status").child("loadBalancer", "ingress").index(index))
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        annotated = CLASS_ANNOTATION in (obj["metadata"].get("annotations") or {})
        return [DEPRECATED] if annotated and old is None else []

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        annotated = (obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION)
        balancer = status_of(obj).get("loadBalancer") or {}
        addresses = [one.get("ip") or one.get("hostname") or "" for one in balancer.get("ingress") or ()]
        return [
            name_of(obj),
            spec.get("ingressClassName") or annotated or NONE,
            _hosts(spec),
            ",".join(sorted(set(addresses) - {""})),
            "80, 443" if spec.get("tls") else "80",
            age(obj, now),
        ]


def _hosts(spec: Json) -> str:
    hosts = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    return more(hosts, SHOWN) if hosts else "*"


def _spec_errors(spec: Json) -> list[FieldError]:
    errors: list[FieldError] = []
    rules, backend = spec.get("rules") or (), spec.get("defaultBackend")
    if not rules and backend is None:
        detail = "either `defaultBackend` or `rules` must be specified"
        errors.append(field.invalid(SPEC, None, detail))
    for index, entry in enumerate(spec.get("tls") or ()):
        where = SPEC.child("tls").index(index)
        for host_index, host in enumerate(entry.get("hosts") or ()):
            at = where.child("hosts").index(host_index)
            check = formats.wildcard_dns1123_subdomain if "*" in host else formats.dns1123_subdomain
            errors += [field.invalid(at, host, message) for message in check(host)]
        if name := entry.get("secretName"):
            at = where.child("secretName")
            errors += [field.invalid(at, name, message) for message in formats.dns1123_subdomain(name)]
    for index, rule in enumerate(rules):
        errors += _rule_errors(rule, SPEC.child("rules").index(index))
    if backend is not None:
        errors += _backend_errors(backend, SPEC.child("defaultBackend"))
    if (name := spec.get("ingressClassName")) is not None:
        where = SPEC.child("ingressClassName")
        errors += [field.invalid(where, name, message) for message in formats.dns1123_subdomain(name)]
    return errors


def _rule_errors(rule: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if host := rule.get("host"):
        where = path.child("host")
        if formats.parse_ip_sloppy(host) is not None:
            errors.append(field.invalid(where, host, "must be a DNS name, not an IP address"))
        check = formats.wildcard_dns1123_subdomain if "*" in host else formats.dns1123_subdomain
        errors += [] if errors else [field.invalid(where, host, message) for message in check(host)]
    http = rule.get("http")
    if http is None:
        return errors
    paths = http.get("paths") or ()
    if not paths:
        errors.append(field.required(path.child("http", "paths"), ""))
    for index, one in enumerate(paths):
        errors += _path_errors(one, path.child("http", "paths").index(index))
    return errors


def _path_errors(one: Json, path: Path) -> list[FieldError]:
    kind, text = one.get("pathType"), one.get("path") or ""
    if kind is None:
        return [field.required(path.child("pathType"), "pathType must be specified")]
    errors: list[FieldError] = []
    where = path.child("path")
    if kind in ("Exact", "Prefix"):
        if not text.startswith("/"):
            errors.append(field.invalid(where, text, "must be an absolute path"))
        if text:
            errors.extend(
                field.invalid(where, text, f"must not contain '{bad}'") for bad in BAD_SEQUENCES if bad in text
            )
            errors.extend(
                field.invalid(where, text, f"cannot end with '{bad}'") for bad in BAD_SUFFIXES if text.endswith(bad)
            )
    elif kind == "ImplementationSpecific":
        if text and not text.startswith("/"):
            errors.append(field.invalid(where, text, "must be an absolute path"))
    else:
        errors.append(field.not_supported(path.child("pathType"), kind, PATH_TYPES))
    return errors + _backend_errors(one.get("backend") or {}, path.child("backend"))


def _backend_errors(backend: Json, path: Path) -> list[FieldError]:
    service, resource = backend.get("service"), backend.get("resource")
    if resource is not None and service is not None:
        return [field.invalid(path, "", "cannot set both resource and service backends")]
    if resource is not None:
        errors: list[FieldError] = []
        where = path.child("resource")
        if (group := resource.get("apiGroup")) is not None:
            messages = formats.dns1123_subdomain(group)
            errors += [field.invalid(where.child("apiGroup"), group, message) for message in messages]
        for name in ("kind", "name"):
            value = resource.get(name) or ""
            if not value:
                errors.append(field.required(where.child(name), ""))
            else:
                errors += [field.invalid(where.child(name), value, one) for one in formats.path_segment(value)]
        return errors
    if service is None:
        return [field.invalid(path, "", "resource or service backend is required")]
    return _service_errors(service, path)


def _service_errors(service: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    name, port = service.get("name") or "", service.get("port") or {}
    where = path.child("service")
    if not name:
        errors.append(field.required(where.child("name"), ""))
    else:
        errors += [field.invalid(where.child("name"), name, message) for message in formats.dns1123_label(name)]
    number, port_name = port.get("number") or 0, port.get("name") or ""
    if number and port_name:
        errors.append(field.invalid(path, "", "cannot set both port name & port number"))
    elif port_name:
        at = where.child("port", "name")
        errors += [field.invalid(at, port_name, message) for message in formats.port_name(port_name)]
    elif number:
        at = where.child("port", "number")
        errors += [field.invalid(at, number, message) for message in formats.port_number(number)]
    else:
        errors.append(field.required(path, "port name or number is required"))
    return errors
