"""The containers of a pod: regular, init and ephemeral.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Container
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tiphys.apiserver.registry.validation.env import validate_env, validate_env_from
from tiphys.apiserver.registry.validation.handlers import validate_lifecycle, validate_probes
from tiphys.apiserver.registry.validation.mounts import validate_volume_devices, validate_volume_mounts
from tiphys.apiserver.registry.validation.resources import validate_requirements
from tiphys.apiserver.registry.validation.security import validate_container_security
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
MESSAGE_POLICIES: Final = ("File", "FallbackToLogsOnError")
RESTART_POLICIES: Final = ("Always", "Never", "OnFailure")
MAX_EXIT_CODES: Final = 255
NOT_FOR_INIT: Final = "may not be set for init containers without restartPolicy=Always"
NOT_FOR_EPHEMERAL: Final = "cannot be set for an Ephemeral Container"
EPHEMERAL_FORBIDDEN: Final = (
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
)


@dataclass(frozen=True, slots=True)
class PodScope:
    """What the rules for one container need to know of its pod."""

    volumes: Mapping[str, Json]
    claim_names: Collection[str]
    grace_seconds: int
    host_users: bool
    restart_policy: str


def validate_containers(containers: Sequence[Json], scope: PodScope, path: Path) -> list[FieldError]:
    """Errors of the regular containers."""
    if not containers:
        return [field.required(path, "")]
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, container in enumerate(containers):
        where = path.index(index)
        errors += _common_errors(container, scope, where)
        name = container.get("name", "")
        if name in names:
            errors.append(field.duplicate(where.child("name"), name))
        names.add(name)
        errors += _restart_errors(container, where)
        errors += validate_lifecycle(container.get("lifecycle"), scope.grace_seconds, where.child("lifecycle"))
        errors += validate_probes(container, scope.grace_seconds, where)
    return errors + _host_port_conflicts(containers, path)


def validate_init_containers(
    init_containers: Sequence[Json], containers: Sequence[Json], scope: PodScope, path: Path
) -> list[FieldError]:
    """Errors of the init containers; their names differ from those of regular ones too."""
    errors: list[FieldError] = []
    names = {container.get("name", "") for container in containers}
    for index, container in enumerate(init_containers):
        where = path.index(index)
        errors += _common_errors(container, scope, where)
        name = container.get("name", "")
        if name in names:
            errors.append(field.duplicate(where.child("name"), name))
        elif name:
            names.add(name)
        errors += _restart_errors(container, where, init=True)
        errors += _host_port_conflicts([container], path)
        if container.get("restartPolicy") == "Always":
            errors += validate_lifecycle(container.get("lifecycle"), scope.grace_seconds, where.child("lifecycle"))
            errors += validate_probes(container, scope.grace_seconds, where)
            continue
        for forbidden in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(forbidden) is not None:
                errors.append(field.forbidden(where.child(forbidden), NOT_FOR_INIT))
    return errors


def validate_ephemeral_containers(
    ephemeral: Sequence[Json], spec: Json, scope: PodScope, path: Path
) -> list[FieldError]:
    """Errors of ephemeral containers: no ports, probes, resources; a target must be a container of the pod."""
    errors: list[FieldError] = []
    regular = {one.get("name", "") for kind in ("containers", "initContainers") for one in spec.get(kind) or ()}
    names = set(regular)
    for index, container in enumerate(ephemeral):
        where = path.index(index)
        errors += _common_errors(container, scope, where)
        name = container.get("name", "")
        if name in names:
            errors.append(field.duplicate(where.child("name"), name))
        names.add(name)
        target = container.get("targetContainerName")
        if target and target not in regular:
            errors.append(field.not_found(where.child("targetContainerName"), target))
        for forbidden in EPHEMERAL_FORBIDDEN:
            if container.get(forbidden):
                errors.append(field.forbidden(where.child(forbidden), NOT_FOR_EPHEMERAL))
        for mount_index, mount in enumerate(container.get("volumeMounts") or ()):
            for forbidden in ("subPath", "subPathExpr"):
                if mount.get(forbidden):
                    at = where.child("volumeMounts").index(mount_index).child(forbidden)
                    errors.append(field.forbidden(at, NOT_FOR_EPHEMERAL))
    return errors


def _common_errors(container: Json, scope: PodScope, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    name, image = container.get("name", ""), container.get("image", "")
    if not name:
        errors.append(field.required(path.child("name"), ""))
    else:
        errors += [field.invalid(path.child("name"), name, message) for message in formats.dns1123_label(name)]
    if not image:
        errors.append(field.required(path.child("image"), ""))
    elif image.strip() != image:
        errors.append(field.invalid(path.child("image"), image, "must not have leading or trailing whitespace"))
    errors += _one_of(container, "terminationMessagePolicy", MESSAGE_POLICIES, path)
    errors += _port_errors(container.get("ports") or (), path.child("ports"))
    errors += validate_env(container.get("env") or (), path.child("env"))
    errors += validate_env_from(container.get("envFrom") or (), path.child("envFrom"))
    errors += validate_volume_mounts(container, scope.volumes, path.child("volumeMounts"))
    errors += validate_volume_devices(container, scope.volumes, path.child("volumeDevices"))
    errors += _one_of(container, "imagePullPolicy", PULL_POLICIES, path)
    errors += validate_requirements(container.get("resources"), scope.claim_names, path.child("resources"))
    errors += _resize_errors(container.get("resizePolicy") or (), scope, path.child("resizePolicy"))
    return errors + validate_container_security(container, path.child("securityContext"), scope.host_users)


def _one_of(container: Json, name: str, allowed: Sequence[str], path: Path) -> list[FieldError]:
    return _listed(container.get(name) or "", allowed, path.child(name))


def _port_errors(ports: Sequence[Json], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        where = path.index(index)
        if name := port.get("name"):
            messages = formats.port_name(name)
            if messages:
                errors += [field.invalid(where.child("name"), name, message) for message in messages]
            elif name in names:
                errors.append(field.duplicate(where.child("name"), name))
            names.add(name)
        number = port.get("containerPort") or 0
        if not number:
            errors.append(field.required(where.child("containerPort"), ""))
        else:
            messages = formats.port_number(number)
            errors += [field.invalid(where.child("containerPort"), number, message) for message in messages]
        host_port = port.get("hostPort") or 0
        if host_port:
            messages = formats.port_number(host_port)
            errors += [field.invalid(where.child("hostPort"), host_port, message) for message in messages]
        errors += _one_of(port, "protocol", PROTOCOLS, where)
    return errors


def _host_port_conflicts(containers: Sequence[Json], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    taken: set[str] = set()
    for index, container in enumerate(containers):
        for port_index, port in enumerate(container.get("ports") or ()):
            number = port.get("hostPort") or 0
            if not number:
                continue
            text = f"{port.get('protocol', '')}/{port.get('hostIP') or ''}/{number}"
            if text in taken:
                at = path.index(index).child("ports").index(port_index).child("hostPort")
                errors.append(field.duplicate(at, text))
            taken.add(text)
    return errors


def _restart_errors(container: Json, path: Path, *, init: bool = False) -> list[FieldError]:
    """Restart policy and rules of a single container; without a policy those of an init container are not judged."""
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or ()
    errors: list[FieldError] = []
    if policy is None:
        if rules:
            detail = "must specify restartPolicy when restart rules are used"
            errors.append(field.required(path.child("restartPolicy"), detail))
            if init:
                return errors
    elif policy not in RESTART_POLICIES:
        errors.append(field.not_supported(path.child("restartPolicy"), policy, list(RESTART_POLICIES)))
    for index, rule in enumerate(rules):
        errors += _restart_rule_errors(rule, path.child("restartPolicyRules").index(index))
    return errors


def _restart_rule_errors(rule: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    action = rule.get("action") or ""
    if action not in ("Restart", "RestartAllContainers"):
        errors.append(field.not_supported(path.child("action"), action, ["Restart", "RestartAllContainers"]))
    codes = rule.get("exitCodes")
    if codes is None:
        errors.append(field.required(path.child("exitCodes"), "must be specified"))
        return errors
    operator = codes.get("operator") or ""
    if operator not in ("In", "NotIn"):
        errors.append(field.not_supported(path.child("exitCodes").child("operator"), operator, ["In", "NotIn"]))
    if not codes.get("values"):
        errors.append(field.required(path.child("exitCodes").child("values"), "must be specified"))
    elif len(codes["values"]) > MAX_EXIT_CODES:
        errors.append(field.too_many(path.child("exitCodes", "values"), len(codes["values"]), MAX_EXIT_CODES))
    return errors


def _resize_errors(policies: Sequence[Json], scope: PodScope, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, policy in enumerate(policies):
        resource, action = policy.get("resourceName") or "", policy.get("restartPolicy") or ""
        if resource in seen:
            errors.append(field.duplicate(path.index(index), resource))
        seen.add(resource)
        errors += _listed(resource, ("cpu", "memory"), path)
        errors += _listed(action, ("NotRequired", "RestartContainer"), path)
        if action == "RestartContainer" and scope.restart_policy == "Never":
            errors.append(field.invalid(path, action, "must be 'NotRequired' when `restartPolicy` is 'Never'"))
    return errors


def _listed(value: str, allowed: Sequence[str], path: Path) -> list[FieldError]:
    if not value:
        return [field.required(path, "")]
    return [] if value in allowed else [field.not_supported(path, value, list(allowed))]
