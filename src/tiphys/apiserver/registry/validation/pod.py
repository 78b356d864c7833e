"""Pod specs and pod templates.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.validation.containers import (
    PodScope,
    validate_containers,
    validate_ephemeral_containers,
    validate_init_containers,
)
from tiphys.apiserver.registry.validation.env import validate_file_volumes
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import validate_annotations, validate_labels
from tiphys.apiserver.registry.validation.pod_resources import validate_overhead, validate_pod_resources
from tiphys.apiserver.registry.validation.scheduling import (
    validate_affinity,
    validate_readiness_gates,
    validate_scheduling_gates,
    validate_spread_constraints,
    validate_tolerations,
)
from tiphys.apiserver.registry.validation.security import validate_os, validate_pod_security
from tiphys.apiserver.registry.validation.volumes import validate_volumes
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

MAX_INT32: Final = 2147483647
DNS_POLICIES: Final = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
RESTART_POLICIES: Final = ("Always", "OnFailure", "Never")
PREEMPTION_POLICIES: Final = ("PreemptLowerPriority", "Never")
# Limits of resolv.conf, as the kubelet writes it.
MAX_NAMESERVERS: Final = 3
MAX_SEARCHES: Final = 32
MAX_SEARCH_CHARS: Final = 2048
APP_ARMOR_PREFIX: Final = "container.apparmor.security.beta.kubernetes.io/"
MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"


def validate_pod_template(template: Json | None, path: Path) -> list[FieldError]:
    """Errors of a PodTemplateSpec."""
    template = template or {}
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    errors = validate_labels(metadata.get("labels") or {}, path.child("labels"))
    errors += validate_annotations(metadata.get("annotations") or {}, path.child("annotations"))
    errors += validate_pod_annotations(metadata.get("annotations") or {}, spec, path.child("annotations"))
    errors += validate_pod_spec(spec, path.child("spec"))
    if spec.get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        errors.append(field.forbidden(path.child("spec", "ephemeralContainers"), detail))
    return errors


def validate_pod_annotations(annotations: Mapping[str, str], spec: Json, path: Path) -> list[FieldError]:
    """Annotations with a meaning: mirror pods, AppArmor profiles of old."""
    errors: list[FieldError] = []
    mirror = annotations.get(MIRROR_ANNOTATION)
    if mirror is not None and not spec.get("nodeName"):
        detail = "must set spec.nodeName if mirror pod annotation is set"
        errors.append(field.invalid(path.key(MIRROR_ANNOTATION), mirror, detail))
    for key, value in annotations.items():
        if key.startswith(APP_ARMOR_PREFIX):
            errors += _app_armor_annotation_errors(key, value, spec, path)
    return errors


def _app_armor_annotation_errors(key: str, value: str, spec: Json, path: Path) -> list[FieldError]:
    container = key.removeprefix(APP_ARMOR_PREFIX)
    kinds = ("initContainers", "containers", "ephemeralContainers")
    names = {one.get("name") for kind in kinds for one in spec.get(kind) or ()}
    where = path.key(key)
    if container not in names:
        return [field.invalid(where, container, "container not found")]
    if value and value not in ("runtime/default", "unconfined") and not value.startswith("localhost/"):
        return [field.invalid(where, value, "invalid AppArmor profile name")]
    return []


def validate_pod_spec(spec: Json, path: Path) -> list[FieldError]:
    """Errors of a PodSpec, in the order the API lists them."""
    errors: list[FieldError] = []
    if spec.get("terminationGracePeriodSeconds") is None:
        errors.append(field.required(path.child("terminationGracePeriodSeconds"), ""))
    volumes, found = validate_volumes(spec.get("volumes") or (), path.child("volumes"))
    errors += found
    errors += _claim_errors(spec.get("resourceClaims") or (), path.child("resourceClaims"))
    host_users = spec.get("hostUsers")
    scope = PodScope(
        volumes=volumes,
        claim_names={one.get("name", "") for one in spec.get("resourceClaims") or ()},
        grace_seconds=spec.get("terminationGracePeriodSeconds") or 0,
        host_users=True if host_users is None else host_users,
        restart_policy=spec.get("restartPolicy") or "",
    )
    containers = spec.get("containers") or ()
    errors += validate_containers(containers, scope, path.child("containers"))
    errors += validate_init_containers(
        spec.get("initContainers") or (), containers, scope, path.child("initContainers")
    )
    errors += validate_ephemeral_containers(
        spec.get("ephemeralContainers") or (), spec, scope, path.child("ephemeralContainers")
    )
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        errors += validate_file_volumes(spec.get(kind) or (), volumes, path.child(kind))
    errors += validate_pod_resources(spec, scope.claim_names, path)
    errors += _host_network_errors(spec, path)
    errors += _one_of(spec, "restartPolicy", RESTART_POLICIES, path)
    errors += _one_of(spec, "dnsPolicy", DNS_POLICIES, path)
    errors += validate_labels(spec.get("nodeSelector") or {}, path.child("nodeSelector"))
    errors += validate_pod_security(spec, path, path.child("securityContext"))
    errors += validate_affinity(spec.get("affinity"), path.child("affinity"))
    errors += _dns_config_errors(spec, path.child("dnsConfig"))
    errors += validate_readiness_gates(spec.get("readinessGates") or (), path.child("readinessGates"))
    errors += validate_scheduling_gates(spec.get("schedulingGates") or (), path.child("schedulingGates"))
    errors += validate_spread_constraints(
        spec.get("topologySpreadConstraints") or (), path.child("topologySpreadConstraints")
    )
    errors += _host_users_errors(spec, path)
    return errors + _identity_errors(spec, path)


def _identity_errors(spec: Json, path: Path) -> list[FieldError]:
    """Names, deadlines and the other single fields at the end of the list."""
    errors = _named(spec, "serviceAccountName", path)
    errors += _named(spec, "nodeName", path)
    if spec.get("nodeName") and spec.get("schedulingGates"):
        detail = "cannot be set until all schedulingGates have been cleared"
        errors.append(field.forbidden(path.child("nodeName"), detail))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= MAX_INT32:
        detail = formats.in_range(1, MAX_INT32)
        errors.append(field.invalid(path.child("activeDeadlineSeconds"), deadline, detail))
    for name in ("hostname", "subdomain"):
        if value := spec.get(name):
            errors += [field.invalid(path.child(name), value, message) for message in formats.dns1123_label(value)]
    errors += _hostname_override_errors(spec, path)
    errors += validate_tolerations(spec.get("tolerations") or (), path.child("tolerations"))
    errors += _host_alias_errors(spec.get("hostAliases") or (), path.child("hostAliases"))
    errors += _named(spec, "priorityClassName", path)
    if (runtime_class := spec.get("runtimeClassName")) is not None:
        messages = formats.dns1123_subdomain(runtime_class)
        errors += [field.invalid(path.child("runtimeClassName"), runtime_class, message) for message in messages]
    if spec.get("preemptionPolicy") is not None:
        errors += _one_of(spec, "preemptionPolicy", PREEMPTION_POLICIES, path)
    errors += validate_overhead(spec.get("overhead"), path.child("overhead", "limits"))
    return errors + validate_os(spec, path)


def _one_of(spec: Json, name: str, allowed: Sequence[str], path: Path) -> list[FieldError]:
    value = spec.get(name) or ""
    if not value:
        return [field.required(path.child(name), "")]
    return [] if value in allowed else [field.not_supported(path.child(name), value, list(allowed))]


def _named(spec: Json, name: str, path: Path) -> list[FieldError]:
    value = spec.get(name)
    if not value:
        return []
    return [field.invalid(path.child(name), value, message) for message in formats.dns1123_subdomain(value)]


def _claim_errors(claims: Sequence[Json], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, claim in enumerate(claims):
        where = path.index(index)
        name = claim.get("name") or ""
        if not name:
            errors.append(field.required(where.child("name"), ""))
        elif name in names:
            errors.append(field.duplicate(where.child("name"), name))
        else:
            errors += [field.invalid(where.child("name"), name, message) for message in formats.dns1123_label(name)]
            names.add(name)
        by_name, by_template = claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName")
        if by_name is not None and by_template is not None:
            detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            errors.append(field.invalid(where, internal_form("PodResourceClaim", claim), detail))
        if by_name is None and by_template is None:
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            errors.append(field.invalid(where, internal_form("PodResourceClaim", claim), detail))
        for kind in ("resourceClaimName", "resourceClaimTemplateName"):
            if (value := claim.get(kind)) is not None:
                messages = formats.dns1123_subdomain(value)
                errors += [field.invalid(where.child(kind), value, message) for message in messages]
    return errors


def _host_network_errors(spec: Json, path: Path) -> list[FieldError]:
    """A container of the host's network listens on the host's ports."""
    if not spec.get("hostNetwork"):
        return []
    errors: list[FieldError] = []
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            for port_index, port in enumerate(container.get("ports") or ()):
                host_port = port.get("hostPort") or 0
                if host_port and host_port != port.get("containerPort"):
                    at = path.child(kind).index(index).child("ports").index(port_index).child("hostPort")
                    detail = "must match `containerPort` when `hostNetwork` is true"
                    errors.append(field.invalid(at, host_port, detail))
    return errors


def _dns_config_errors(spec: Json, path: Path) -> list[FieldError]:
    config = spec.get("dnsConfig")
    errors: list[FieldError] = []
    if spec.get("dnsPolicy") == "None":
        if config is None:
            detail = "must provide `dnsConfig` when `dnsPolicy` is None"
            return [field.required(path, detail)]
        if not config.get("nameservers"):
            detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            return [field.required(path.child("nameservers"), detail)]
    if config is None:
        return []
    servers = list(config.get("nameservers") or ())
    if len(servers) > MAX_NAMESERVERS:
        detail = f"must not have more than {MAX_NAMESERVERS} nameservers"
        errors.append(field.invalid(path.child("nameservers"), servers, detail))
    for index, server in enumerate(servers):
        where = path.child("nameservers").index(index)
        errors += [field.invalid(where, server, message) for message in formats.ip_address(server)]
    errors += _search_errors(list(config.get("searches") or ()), path.child("searches"))
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            errors.append(field.required(path.child("options").index(index), "must not be empty"))
    return errors


def _search_errors(searches: list[str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if len(searches) > MAX_SEARCHES:
        detail = f"must not have more than {MAX_SEARCHES} search paths"
        errors.append(field.invalid(path, searches, detail))
    if len(" ".join(searches)) > MAX_SEARCH_CHARS:
        detail = f"must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        errors.append(field.invalid(path, searches, detail))
    for index, search in enumerate(searches):
        if search != ".":
            messages = formats.dns1123_subdomain_with_underscore(search.removesuffix("."))
            errors += [field.invalid(path.index(index), search, message) for message in messages]
    return errors


def _host_users_errors(spec: Json, path: Path) -> list[FieldError]:
    """A user namespace of its own excludes the host's other namespaces."""
    if spec.get("hostUsers") is not False:
        return []
    detail = "when `hostUsers` is false"
    errors = [
        field.forbidden(path.child(name), detail) for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)
    ]
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            if container.get("volumeDevices"):
                errors.append(field.forbidden(path.child(kind).index(index).child("volumeDevices"), detail))
    return errors


def _hostname_override_errors(spec: Json, path: Path) -> list[FieldError]:
    value = spec.get("hostnameOverride")
    if value is None:
        return []
    where = path.child("hostnameOverride")
    errors: list[FieldError] = []
    if spec.get("setHostnameAsFQDN"):
        errors.append(field.forbidden(where, "may not be specified when setHostnameAsFQDN is true"))
    if spec.get("hostNetwork"):
        errors.append(field.forbidden(where, "may not be specified when hostNetwork is true"))
    if len(value) > 64:
        errors.append(field.too_long(where, value, 64))
    return errors + [field.invalid(where, value, message) for message in formats.dns1123_subdomain(value)]


def _host_alias_errors(aliases: Sequence[Json], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, alias in enumerate(aliases):
        where = path.index(index)
        address = alias.get("ip") or ""
        errors += [field.invalid(where.child("ip"), address, message) for message in formats.ip_address(address)]
        for host_index, host in enumerate(alias.get("hostnames") or ()):
            at = where.child("hostnames").index(host_index)
            errors += [field.invalid(at, host, message) for message in formats.dns1123_subdomain(host)]
    return errors
