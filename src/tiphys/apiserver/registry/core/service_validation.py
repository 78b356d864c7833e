"""What a valid service is.

https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.core.service_fields import (
    cluster_ips,
    externally_accessible,
    is_headless,
    needs_cluster_ip,
    needs_health_check_port,
)
from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.validation.handlers import validate_port
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import name_errors, validate_label_name, validate_labels
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
FAMILIES: Final = ("IPv4", "IPv6")
FAMILY_POLICIES: Final = ("PreferDualStack", "RequireDualStack", "SingleStack")
ONLY_LOAD_BALANCER: Final = "may only be used when `type` is 'LoadBalancer'"
NOT_EXTERNAL_NAME: Final = "may not be set for ExternalName services"
ONCE_SET: Final = "may not change once set"
# A client sticks to an endpoint for at most a day.
MAX_AFFINITY_SECONDS: Final = 86400
KUBELET_PORT: Final = 10250
HEALTH_CHECK_DETAIL: Final = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"


def validate_service(service: Object) -> list[FieldError]:
    """Errors of a service, new or changed."""
    spec: Json = service.get("spec") or {}
    errors = name_errors(service["metadata"], service_name_messages)
    ports: Sequence[Json] = spec.get("ports") or ()
    kind = spec.get("type") or ""
    if not ports and not is_headless(spec) and kind != "ExternalName":
        errors.append(field.required(SPEC.child("ports"), ""))
    errors += _type_errors(spec, kind)
    names: set[str] = set()
    for index, port in enumerate(ports):
        errors += _port_errors(port, len(ports) > 1, names, SPEC.child("ports").index(index))
    errors += validate_labels(spec.get("selector") or {}, SPEC.child("selector"))
    errors += _affinity_errors(spec)
    errors += validate_cluster_ips(spec)
    errors += _external_ip_errors(spec.get("externalIPs") or ())
    if not kind:
        errors.append(field.required(SPEC.child("type"), ""))
    elif kind not in TYPES:
        errors.append(field.not_supported(SPEC.child("type"), kind, TYPES))
    if kind == "ClusterIP":
        for index, port in enumerate(ports):
            if port.get("nodePort"):
                at = SPEC.child("ports").index(index).child("nodePort")
                errors.append(field.forbidden(at, "may not be used when `type` is 'ClusterIP'"))
    errors += _duplicate_port_errors(ports)
    errors += _load_balancer_errors(spec, kind)
    errors += _traffic_errors(spec)
    return errors


def service_name_messages(name: str) -> list[str]:
    """A DNS label; a name of several gets a message of its own."""
    if "." in name and not formats.dns1123_subdomain(name):
        return ["must not contain dots"]
    return formats.dns1123_label(name)


def _type_errors(spec: Json, kind: str) -> list[FieldError]:
    errors: list[FieldError] = []
    if kind == "LoadBalancer":
        for index, port in enumerate(spec.get("ports") or ()):
            if port.get("port") == KUBELET_PORT:
                detail = f"may not expose port {KUBELET_PORT} externally since it is used by kubelet"
                errors.append(field.invalid(SPEC.child("ports").index(index), port["port"], detail))
    if kind in ("LoadBalancer", "NodePort") and is_headless(spec):
        detail = f"may not be set to 'None' for {kind} services"
        errors.append(field.invalid(SPEC.child("clusterIPs").index(0), "None", detail))
    if kind == "ExternalName":
        errors.extend(
            field.forbidden(SPEC.child(name), NOT_EXTERNAL_NAME)
            for name in ("clusterIPs", "ipFamilies")
            if spec.get(name)
        )
        if spec.get("ipFamilyPolicy") is not None:
            errors.append(field.forbidden(SPEC.child("ipFamilyPolicy"), NOT_EXTERNAL_NAME))
        name = (spec.get("externalName") or "").removesuffix(".")
        where = SPEC.child("externalName")
        if name:
            errors += [field.invalid(where, name, message) for message in formats.dns1123_subdomain(name)]
        else:
            errors.append(field.required(where, ""))
    return errors


def _port_errors(port: Json, require_name: bool, names: set[str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    name = port.get("name") or ""
    if not name:
        if require_name:
            errors.append(field.required(path.child("name"), ""))
    else:
        errors += [field.invalid(path.child("name"), name, message) for message in formats.dns1123_label(name)]
        if name in names:
            errors.append(field.duplicate(path.child("name"), name))
        names.add(name)
    errors += validate_port(port.get("port") or 0, path.child("port"))
    protocol = port.get("protocol") or ""
    if not protocol:
        errors.append(field.required(path.child("protocol"), ""))
    elif protocol not in PROTOCOLS:
        errors.append(field.not_supported(path.child("protocol"), protocol, PROTOCOLS))
    errors += validate_port(port.get("targetPort") or 0, path.child("targetPort"))
    if (application := port.get("appProtocol")) is not None:
        errors += validate_label_name(application, path.child("appProtocol"))
    return errors


def _affinity_errors(spec: Json) -> list[FieldError]:
    affinity = spec.get("sessionAffinity") or ""
    where = SPEC.child("sessionAffinity")
    if not affinity:
        return [field.required(where, "")]
    if affinity not in ("ClientIP", "None"):
        return [field.not_supported(where, affinity, ["ClientIP", "None"])]
    if affinity == "None":
        return []
    seconds = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    if seconds is None or not 0 < seconds <= MAX_AFFINITY_SECONDS:
        at = SPEC.child("sessionAffinityConfig", "clientIP", "timeoutSeconds")
        detail = f"must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"
        return [field.invalid(at, seconds, detail)]
    return []


def validate_cluster_ips(spec: Json) -> list[FieldError]:
    """Errors of clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy among themselves."""
    if spec.get("type") == "ExternalName":
        return []
    families, ips, single = list(spec.get("ipFamilies") or ()), list(cluster_ips(spec)), spec.get("clusterIP") or ""
    errors: list[FieldError] = []
    for index, family in enumerate(families):
        where = SPEC.child("ipFamilies").index(index)
        if family not in FAMILIES:
            errors.append(field.not_supported(where, family, FAMILIES))
        if family in families[:index]:
            errors.append(field.duplicate(where, family))
    policy = spec.get("ipFamilyPolicy")
    if policy is not None and policy not in FAMILY_POLICIES:
        errors.append(field.not_supported(SPEC.child("ipFamilyPolicy"), policy, FAMILY_POLICIES))
    where = SPEC.child("clusterIPs")
    if ips and not single:
        errors.append(field.invalid(where, ips, "must be empty when `clusterIP` is not specified"))
    elif single and not ips:
        errors.append(field.required(where, ""))
    elif ips and ips[0] != single:
        errors.append(field.invalid(where, ips, "first value must match `clusterIP`"))
    return errors + _cluster_ip_list_errors(ips, families, where)


def _cluster_ip_list_errors(ips: list[str], families: list[str], where: Path) -> list[FieldError]:
    if not ips:
        return []
    if ips == ["None"]:
        return []
    errors: list[FieldError] = []
    if ips[0] == "None":
        errors.append(field.invalid(where, ips, "'None' must be the first and only value"))
    for index, text in enumerate(ips):
        if not index and text == "None":
            continue
        errors += [field.invalid(where.index(index), text, message) for message in formats.ip_address(text)]
    if errors:
        return errors
    if len(ips) > 2:
        errors.append(field.invalid(where, ips, "may only hold up to 2 values"))
    versions = [family_of(text) for text in ips]
    if len(ips) > 1 and len(set(versions)) < len(ips):
        errors.append(field.invalid(where, ips, "may specify no more than one IP for each IP family"))
    for index, (version, family) in enumerate(zip(versions, families, strict=False)):
        if version != family and family in FAMILIES:
            detail = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            errors.append(field.invalid(where.index(index), ips[index], detail))
    return errors


def family_of(text: str) -> str:
    """IPv4 or IPv6, of a valid address."""
    return f"IPv{ipaddress.ip_address(text).version}"


def _external_ip_errors(addresses: Sequence[str]) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, text in enumerate(addresses):
        where = SPEC.child("externalIPs").index(index)
        messages = formats.ip_address(text) or formats.non_special_ip(text)
        errors += [field.invalid(where, text, message) for message in messages]
    return errors


def _duplicate_port_errors(ports: Sequence[Json]) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        key = (port.get("protocol"), port.get("port"))
        if key in seen:
            value = internal_form("ServicePort", {"protocol": key[0], "port": key[1]})
            errors.append(field.duplicate(SPEC.child("ports").index(index), value))
        seen.add(key)
    return errors


def _load_balancer_errors(spec: Json, kind: str) -> list[FieldError]:
    errors: list[FieldError] = []
    ranges: Sequence[str] = spec.get("loadBalancerSourceRanges") or ()
    where = SPEC.child("LoadBalancerSourceRanges")
    if ranges:
        if kind != "LoadBalancer":
            errors.append(field.forbidden(where, ONLY_LOAD_BALANCER))
        for index, text in enumerate(ranges):
            messages = formats.cidr(text.strip())
            errors += [field.invalid(where.index(index), text, message) for message in messages]
    allocate = spec.get("allocateLoadBalancerNodePorts")
    if kind == "LoadBalancer" and allocate is None:
        errors.append(field.required(SPEC.child("allocateLoadBalancerNodePorts"), ""))
    if kind != "LoadBalancer" and allocate is not None:
        errors.append(field.forbidden(SPEC.child("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER))
    name = spec.get("loadBalancerClass")
    if name is not None:
        if kind != "LoadBalancer":
            errors.append(field.forbidden(SPEC.child("loadBalancerClass"), ONLY_LOAD_BALANCER))
        else:
            errors += validate_label_name(name, SPEC.child("loadBalancerClass"))
    return errors


def _traffic_errors(spec: Json) -> list[FieldError]:
    errors: list[FieldError] = []
    policy = spec.get("externalTrafficPolicy") or ""
    where = SPEC.child("externalTrafficPolicy")
    if not externally_accessible(spec):
        if policy:
            errors.append(field.invalid(where, policy, "may only be set for externally-accessible services"))
    elif not policy:
        errors.append(field.required(where, ""))
    elif policy not in ("Cluster", "Local"):
        errors.append(field.not_supported(where, policy, ["Cluster", "Local"]))
    health = spec.get("healthCheckNodePort") or 0
    if health < 0:
        errors += validate_port(health, SPEC.child("healthCheckNodePort"))
    elif health and not needs_health_check_port(spec):
        errors.append(field.invalid(SPEC.child("healthCheckNodePort"), health, HEALTH_CHECK_DETAIL))
    internal = spec.get("internalTrafficPolicy")
    where = SPEC.child("internalTrafficPolicy")
    if internal is None:
        if needs_cluster_ip(spec):
            errors.append(field.required(where, ""))
    elif internal not in ("Cluster", "Local"):
        errors.append(field.not_supported(where, internal, ["Cluster", "Local"]))
    distribution = spec.get("trafficDistribution")
    if distribution is not None:
        allowed = ("PreferClose", "PreferSameZone", "PreferSameNode")
        if distribution not in allowed:
            errors.append(field.not_supported(SPEC.child("trafficDistribution"), distribution, allowed))
    return errors


def validate_service_update(new: Object, old: Object) -> list[FieldError]:
    """Errors of an update: the first address and family stay while the type needs one."""
    spec, known = new.get("spec") or {}, old.get("spec") or {}
    errors: list[FieldError] = []
    if needs_cluster_ip(known) and needs_cluster_ip(spec):
        before, now = list(cluster_ips(known)), list(cluster_ips(spec))
        if before and before[0] and before[0] != "None" and now and now[0] != before[0]:
            errors.append(field.invalid(SPEC.child("clusterIPs").index(0), now, ONCE_SET))
        old_families, families = list(known.get("ipFamilies") or ()), list(spec.get("ipFamilies") or ())
        if old_families and families and families[0] != old_families[0]:
            errors.append(field.invalid(SPEC.child("ipFamilies").index(0), families, ONCE_SET))
    balanced = known.get("type") == "LoadBalancer" and spec.get("type") == "LoadBalancer"
    if balanced and known.get("loadBalancerClass") != spec.get("loadBalancerClass"):
        value = spec.get("loadBalancerClass")
        errors.append(field.invalid(SPEC.child("loadBalancerClass"), value, ONCE_SET))
    return errors + validate_service(new)


def validate_service_status(service: Object) -> list[FieldError]:
    """Errors of what a load balancer reported."""
    errors: list[FieldError] = []
    status = (service.get("status") or {}).get("loadBalancer") or {}
    for index, ingress in enumerate(status.get("ingress") or ()):
        where = Path("status").child("loadBalancer", "ingress").index(index)
        if (service.get("spec") or {}).get("type") != "LoadBalancer" and index == 0:
            at = Path("status").child("loadBalancer", "ingress")
            errors.append(field.forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'"))
            continue
        errors += ingress_address_errors(ingress, where)
    return errors


def ingress_address_errors(ingress: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    address, host, mode = ingress.get("ip") or "", ingress.get("hostname") or "", ingress.get("ipMode")
    if address:
        errors += [field.invalid(path.child("ip"), address, message) for message in formats.ip_address(address)]
        if mode is not None and mode not in ("Proxy", "VIP"):
            errors.append(field.not_supported(path.child("ipMode"), mode, ["Proxy", "VIP"]))
    elif mode is not None:
        errors.append(field.forbidden(path.child("ipMode"), "may not be set when `ip` is not set"))
    if host:
        errors += [field.invalid(path.child("hostname"), host, message) for message in formats.dns1123_subdomain(host)]
        if formats.parse_ip_sloppy(host) is not None:
            errors.append(field.invalid(path.child("hostname"), host, "must be a DNS name, not an IP address"))
    return errors
