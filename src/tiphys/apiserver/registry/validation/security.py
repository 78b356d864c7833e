"""Security contexts of pods and containers.

https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SECCOMP_TYPES: Final = ("Localhost", "RuntimeDefault", "Unconfined")
PROC_MOUNTS: Final = ("Default", "Unmasked")
SYSCTL_DETAIL: Final = f"must have at most 253 characters and match regex {formats.SYSCTL}"
# Fields a pod of another operating system may not set.
LINUX_POD_FIELDS: Final = (
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
    "appArmorProfile",
)
LINUX_CONTAINER_FIELDS: Final = (
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
)


def _id_errors(context: Json, name: str, path: Path) -> list[FieldError]:
    value = context.get(name)
    if value is None:
        return []
    return [field.invalid(path.child(name), value, message) for message in formats.user_id(value)]


def _enum_errors(context: Json, name: str, allowed: tuple[str, ...], path: Path) -> list[FieldError]:
    value = context.get(name)
    if value is None or value in allowed:
        return []
    return [field.not_supported(path.child(name), value, list(allowed))]


def validate_pod_security(spec: Json, spec_path: Path, path: Path) -> list[FieldError]:
    """Errors of `spec.securityContext` and of the host namespaces it goes with."""
    context: Json = spec.get("securityContext") or {}
    errors = _id_errors(context, "fsGroup", path)
    errors += _id_errors(context, "runAsUser", path) + _id_errors(context, "runAsGroup", path)
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        where = path.child("supplementalGroups").index(index)
        errors += [field.invalid(where, group, message) for message in formats.user_id(group)]
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        errors.append(field.invalid(path.child("shareProcessNamespace"), True, detail))
    errors += _sysctl_errors(context, spec, path.child("sysctls"))
    errors += _enum_errors(context, "fsGroupChangePolicy", ("Always", "OnRootMismatch"), path)
    errors += seccomp_errors(context.get("seccompProfile"), path.child("seccompProfile"))
    errors += windows_errors(context.get("windowsOptions"), path.child("windowsOptions"))
    errors += app_armor_errors(context.get("appArmorProfile"), path.child("appArmorProfile"))
    errors += _enum_errors(context, "seLinuxChangePolicy", ("Recursive",), path)
    return errors + _enum_errors(context, "supplementalGroupsPolicy", ("Merge", "Strict"), path)


def _sysctl_errors(context: Json, spec: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, sysctl in enumerate(context.get("sysctls") or ()):
        name = sysctl.get("name", "")
        where = path.index(index)
        if not name:
            errors.append(field.required(where.child("name"), ""))
        elif not formats.sysctl_name(name):
            errors.append(field.invalid(where.child("name"), name, SYSCTL_DETAIL))
        elif name in seen:
            errors.append(field.duplicate(where.child("name"), name))
        elif spec.get("hostNetwork") and name.replace("/", ".").startswith("net."):
            errors.append(field.invalid(where.child("name"), name, "may not be specified when 'hostNetwork' is true"))
        elif spec.get("hostIPC") and name.replace("/", ".").startswith(
            ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")
        ):
            errors.append(field.invalid(where.child("name"), name, "may not be specified when 'hostIPC' is true"))
        seen.add(name)
    return errors


def seccomp_errors(profile: Json | None, path: Path) -> list[FieldError]:
    if profile is None:
        return []
    kind, local = profile.get("type", ""), profile.get("localhostProfile")
    if not kind:
        return [field.required(path.child("type"), "type is required when seccompProfile is set")]
    if kind == "Localhost":
        if local is None:
            return [field.required(path.child("localhostProfile"), "must be set when seccomp type is Localhost")]
        return _local_profile_errors(local, path.child("localhostProfile"))
    errors: list[FieldError] = []
    if local is not None:
        value = internal_form("SeccompProfile", profile)
        errors.append(
            field.invalid(path.child("localhostProfile"), value, "can only be set when seccomp type is Localhost")
        )
    if kind not in SECCOMP_TYPES:
        errors.append(field.not_supported(path.child("type"), kind, list(SECCOMP_TYPES)))
    return errors


def _local_profile_errors(value: str, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if value.startswith("/"):
        errors.append(field.invalid(path, value, "must be a relative path"))
    if ".." in value.split("/"):
        errors.append(field.invalid(path, value, "must not contain '..'"))
    return errors


def app_armor_errors(profile: Json | None, path: Path) -> list[FieldError]:
    if profile is None:
        return []
    kind, local = profile.get("type", ""), profile.get("localhostProfile")
    where = path.child("localhostProfile")
    errors: list[FieldError] = []
    if not kind:
        errors.append(field.required(path.child("type"), "type is required when appArmorProfile is set"))
    elif kind not in SECCOMP_TYPES:
        errors.append(field.not_supported(path.child("type"), kind, list(SECCOMP_TYPES)))
    if kind == "Localhost":
        if local is None:
            errors.append(field.required(where, "must be set when AppArmor type is Localhost"))
        elif local.strip() != local:
            errors.append(field.invalid(where, local, "must not be padded with whitespace"))
        elif not local:
            errors.append(field.required(where, "must be set when AppArmor type is Localhost"))
        elif len(local) > 4095:
            errors.append(field.too_long(where, local, 4095))
    elif local is not None:
        errors.append(field.invalid(where, local, "can only be set when AppArmor type is Localhost"))
    return errors


def windows_errors(options: Json | None, path: Path) -> list[FieldError]:
    if options is None:
        return []
    errors: list[FieldError] = []
    name = options.get("gmsaCredentialSpecName")
    if name is not None:
        where = path.child("gmsaCredentialSpecName")
        errors += [field.invalid(where, name, message) for message in formats.dns1123_subdomain(name)]
    spec = options.get("gmsaCredentialSpec")
    if spec is not None:
        where = path.child("gmsaCredentialSpec")
        if not spec:
            errors.append(field.invalid(where, spec, "gmsaCredentialSpec cannot be an empty string"))
        elif len(spec) > 64 * 1024:
            errors.append(field.too_long(where, spec, 64 * 1024))
    user = options.get("runAsUserName")
    if user is not None and not user:
        detail = "runAsUserName cannot be an empty string"
        errors.append(field.invalid(path.child("runAsUserName"), user, detail))
    return errors


def validate_container_security(container: Json, path: Path, host_users: bool) -> list[FieldError]:
    """Errors of a container's `securityContext`."""
    context: Json | None = container.get("securityContext")
    if not context:
        return []
    errors = _id_errors(context, "runAsUser", path) + _id_errors(context, "runAsGroup", path)
    mount = context.get("procMount")
    if mount is not None:
        errors += _enum_errors(context, "procMount", PROC_MOUNTS, path)
        if mount == "Unmasked" and host_users:
            detail = "`hostUsers` must be false to use `Unmasked`"
            errors.append(field.invalid(path.child("procMount"), mount, detail))
    errors += seccomp_errors(context.get("seccompProfile"), path.child("seccompProfile"))
    errors += _escalation_errors(context, path)
    errors += windows_errors(context.get("windowsOptions"), path.child("windowsOptions"))
    return errors + app_armor_errors(context.get("appArmorProfile"), path.child("appArmorProfile"))


def _escalation_errors(context: Json, path: Path) -> list[FieldError]:
    if context.get("allowPrivilegeEscalation") is not False:
        return []
    errors: list[FieldError] = []
    if context.get("privileged"):
        detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        errors.append(field.invalid(path, internal_form("SecurityContext", context), detail))
    if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
        detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
        errors.append(field.invalid(path, internal_form("SecurityContext", context), detail))
    return errors


def validate_os(spec: Json, path: Path) -> list[FieldError]:
    """The operating system, and the fields that do not exist on it."""
    operating_system = spec.get("os")
    if operating_system is None:
        return []
    name = operating_system.get("name", "")
    if not name:
        return [field.required(path.child("os").child("name"), "")]
    if name not in ("linux", "windows"):
        return [field.not_supported(path.child("os"), name, ["linux", "windows"])]
    return _windows_pod_errors(spec, path) if name == "windows" else _linux_pod_errors(spec, path)


def _windows_pod_errors(spec: Json, path: Path) -> list[FieldError]:
    detail = "cannot be set for a windows pod"
    context: Json = spec.get("securityContext") or {}
    where = path.child("securityContext")
    errors: list[FieldError] = []
    errors.extend(
        field.forbidden(where.child(name), detail) for name in LINUX_POD_FIELDS if context.get(name) is not None
    )
    errors.extend(field.forbidden(path.child(name), detail) for name in ("hostPID", "hostIPC") if spec.get(name))
    if spec.get("shareProcessNamespace") is not None:
        errors.append(field.forbidden(where.child("shareProcessNamespace"), detail))
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or ()):
            at = path.child(kind).index(index).child("securityContext")
            inner: Json = container.get("securityContext") or {}
            errors += [
                field.forbidden(at.child(name), detail)
                for name in LINUX_CONTAINER_FIELDS
                if inner.get(name) is not None
            ]
    return errors


def _linux_pod_errors(spec: Json, path: Path) -> list[FieldError]:
    detail = "windows options cannot be set for a linux pod"
    errors: list[FieldError] = []
    if (spec.get("securityContext") or {}).get("windowsOptions") is not None:
        errors.append(field.forbidden(path.child("securityContext").child("windowsOptions"), detail))
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or ()):
            if (container.get("securityContext") or {}).get("windowsOptions") is not None:
                at = path.child(kind).index(index).child("securityContext").child("windowsOptions")
                errors.append(field.forbidden(at, detail))
    return errors
