"""Environment variables of containers and what they may refer to.

https://kubernetes.io/docs/tasks/inject-data-application/environment-variable-expose-pod-information/
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

Json = Mapping[str, Any]

# Field paths the downward API knows at all.
DOWNWARD_FIELDS: Final = frozenset(
    {
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    }
)
ENV_FIELDS: Final = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
VOLUME_FIELDS: Final = (
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
)
RESOURCE_FIELDS: Final = (
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
)
CPU_DIVISORS: Final = ("1m", "1")
MEMORY_DIVISORS: Final = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
SOURCES: Final = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")

_subscripted = re.compile(r"^(.*)\['(.*)'\]$")


def validate_env(env: Sequence[Json], path: Path) -> list[FieldError]:
    """Errors of `env`: names, and values' sources."""
    errors: list[FieldError] = []
    for index, variable in enumerate(env):
        where = path.index(index)
        name = variable.get("name", "")
        if not name:
            errors.append(field.required(where.child("name"), ""))
        else:
            errors += [field.invalid(where.child("name"), name, message) for message in formats.env_var_name(name)]
        if variable.get("valueFrom") is not None:
            errors += _source_errors(variable, where.child("valueFrom"))
    return errors


def _source_errors(variable: Json, path: Path) -> list[FieldError]:
    source: Json = variable["valueFrom"]
    errors: list[FieldError] = []
    count = 0
    for name in SOURCES:
        if source.get(name) is not None:
            count += 1
            errors += _one_source_errors(name, source[name], path.child(name))
    if not count:
        detail = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        )
        errors.append(field.invalid(path, "", detail))
    elif variable.get("value"):
        errors.append(field.invalid(path, "", "may not be specified when `value` is not empty"))
    elif count > 1:
        errors.append(field.invalid(path, "", "may not have more than one field specified at a time"))
    return errors


def _one_source_errors(kind: str, source: Json, path: Path) -> list[FieldError]:
    match kind:
        case "fieldRef":
            return validate_field_reference(source, ENV_FIELDS, path)
        case "resourceFieldRef":
            return validate_resource_reference(source, path, in_volume=False)
        case "fileKeyRef":
            return _file_key_errors(source, path)
        case _:
            return _key_reference_errors(source, path)


def _key_reference_errors(source: Json, path: Path) -> list[FieldError]:
    name, key = source.get("name", ""), source.get("key", "")
    errors = [field.invalid(path.child("name"), name, message) for message in formats.dns1123_subdomain(name)]
    if not key:
        errors.append(field.required(path.child("key"), ""))
    else:
        errors += [field.invalid(path.child("key"), key, message) for message in formats.config_map_key(key)]
    return errors


def _file_key_errors(source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for name, rule in (("key", formats.env_var_name), ("volumeName", formats.dns1123_label), ("path", _inside)):
        value = source.get(name) or ""
        if not value:
            errors.append(field.required(path.child(name), ""))
        else:
            errors += [field.invalid(path.child(name), value, message) for message in rule(value)]
    return errors


def _inside(path: str) -> list[str]:
    """What is wrong with a path in a volume that must not lead out of it."""
    return ["must not contain '..'"] if ".." in path.split("/") else []


def validate_file_volumes(containers: Sequence[Json], volumes: Mapping[str, Json], path: Path) -> list[FieldError]:
    """Errors of the volumes that variables are read from: emptyDirs of the pod (KEP-3721)."""
    errors: list[FieldError] = []
    for index, container in enumerate(containers):
        for number, variable in enumerate(container.get("env") or ()):
            source = (variable.get("valueFrom") or {}).get("fileKeyRef")
            if source is None:
                continue
            name = source.get("volumeName") or ""
            where = path.index(index).child("env").index(number).child("valueFrom", "fileKeyRef", "volumeName")
            if name not in volumes:
                errors.append(field.not_found(where, name))
            elif volumes[name].get("emptyDir") is None:
                errors.append(field.invalid(where, name, "referenced volume must be of type emptyDir"))
    return errors


def validate_field_reference(reference: Json, allowed: Sequence[str], path: Path) -> list[FieldError]:
    """Errors of an ObjectFieldSelector used where only `allowed` fields are."""
    if not reference.get("apiVersion"):
        return [field.required(path.child("apiVersion"), "")]
    field_path: str = reference.get("fieldPath", "")
    if not field_path:
        return [field.required(path.child("fieldPath"), "")]
    if reference["apiVersion"] != "v1":
        detail = f"error converting fieldPath: unsupported pod version: {reference['apiVersion']}"
        return [field.invalid(path.child("fieldPath"), field_path, detail)]
    match = _subscripted.match(field_path)
    base, subscript = (match.group(1), match.group(2)) if match else (field_path, None)
    if base not in DOWNWARD_FIELDS:
        detail = f"error converting fieldPath: field label not supported: {field_path}"
        return [field.invalid(path.child("fieldPath"), field_path, detail)]
    if subscript is None:
        if base not in allowed:
            return [field.not_supported(path.child("fieldPath"), base, list(allowed))]
        return []
    if base not in ("metadata.annotations", "metadata.labels"):
        return [field.invalid(path, base, "does not support subscript")]
    key = subscript.lower() if base == "metadata.annotations" else subscript
    return [field.invalid(path, subscript, message) for message in formats.qualified_name(key)]


def validate_resource_reference(reference: Json, path: Path, *, in_volume: bool) -> list[FieldError]:
    """Errors of a ResourceFieldSelector; in a volume it must name the container."""
    if in_volume and not reference.get("containerName"):
        return [field.required(path.child("containerName"), "")]
    resource: str = reference.get("resource", "")
    if not resource:
        return [field.required(path.child("resource"), "")]
    if resource not in RESOURCE_FIELDS and not resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        return [field.not_supported(path.child("resource"), resource, list(RESOURCE_FIELDS))]
    return _divisor_errors(resource, reference.get("divisor"), path)


def _divisor_errors(reference: str, divisor: Any, path: Path) -> list[FieldError]:
    """`reference` is the whole name of the resource: `limits.cpu`."""
    if divisor in (None, "0", 0, ""):
        return []
    resource = reference.partition(".")[2]
    allowed: Collection[str] = CPU_DIVISORS if resource == "cpu" else MEMORY_DIVISORS
    if str(Quantity.parse(divisor)) in allowed:
        return []
    if resource == "cpu":
        detail = "only divisor's values 1m and 1 are supported with the cpu resource"
    else:
        listed = ", ".join(MEMORY_DIVISORS)
        name = "ephemeral-storage" if resource == "ephemeral-storage" else "memory"
        detail = f"only divisor's values {listed} are supported with the {name} resource"
    return [field.invalid(path.child("divisor"), reference, detail)]


def validate_env_from(sources: Sequence[Json], path: Path) -> list[FieldError]:
    """Errors of `envFrom`."""
    errors: list[FieldError] = []
    for index, source in enumerate(sources):
        where = path.index(index)
        if prefix := source.get("prefix"):
            errors += [
                field.invalid(where.child("prefix"), prefix, message) for message in formats.env_var_name(prefix)
            ]
        count = 0
        for kind in ("configMapRef", "secretRef"):
            if source.get(kind) is not None:
                count += 1
                name = source[kind].get("name", "")
                at = where.child(kind).child("name")
                if not name:
                    errors.append(field.required(at, ""))
                    continue
                errors += [field.invalid(at, name, message) for message in formats.dns1123_subdomain(name)]
        if not count:
            errors.append(field.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
        elif count > 1:
            errors.append(field.invalid(path, "", "may not have more than one field specified at a time"))
    return errors
