"""Volume mounts and volume devices of containers.

https://kubernetes.io/docs/concepts/storage/volumes/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

PROPAGATIONS: Final = ("Bidirectional", "HostToContainer", "None")
RECURSIVE_MODES: Final = ("Disabled", "Enabled", "IfPossible")


def descending_path_errors(value: str, path: Path) -> list[FieldError]:
    """A relative path that never leaves its root."""
    errors: list[FieldError] = []
    if value.startswith("/"):
        errors.append(field.invalid(path, value, "must be a relative path"))
    return errors + no_backsteps_errors(value, path)


def no_backsteps_errors(value: str, path: Path) -> list[FieldError]:
    if ".." in value.split("/"):
        return [field.invalid(path, value, "must not contain '..'")]
    return []


def non_reserved_path_errors(value: str, path: Path) -> list[FieldError]:
    """A descending path; names starting with two dots are the kubelet's own."""
    errors = descending_path_errors(value, path)
    if value.startswith("..") and not value.startswith("../"):
        errors.append(field.invalid(path, value, "must not start with '..'"))
    return errors


def validate_volume_mounts(container: Json, volumes: Mapping[str, Json], path: Path) -> list[FieldError]:
    """Errors of `volumeMounts`; `volumes` are the valid volumes of the pod by name."""
    errors: list[FieldError] = []
    devices = {device.get("name"): device.get("devicePath") for device in container.get("volumeDevices") or ()}
    seen: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where = path.index(index)
        name, mount_path = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            errors.append(field.required(where.child("name"), ""))
        if name not in volumes:
            errors.append(field.not_found(where.child("name"), name))
        if not mount_path:
            errors.append(field.required(where.child("mountPath"), ""))
        if mount_path in seen:
            errors.append(field.invalid(where.child("mountPath"), mount_path, "must be unique"))
        seen.add(mount_path)
        if name in devices:
            errors.append(field.invalid(where.child("name"), name, "must not already exist in volumeDevices"))
        if mount_path in devices.values():
            detail = "must not already exist as a path in volumeDevices"
            errors.append(field.invalid(where.child("mountPath"), mount_path, detail))
        errors += _sub_path_errors(mount, where, path)
        errors += _propagation_errors(mount, container, path.child("mountPropagation"))
        errors += _recursive_errors(mount, path.child("recursiveReadOnly"))
    return errors


def _sub_path_errors(mount: Json, where: Path, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if sub_path := mount.get("subPath"):
        errors += descending_path_errors(sub_path, path.child("subPath"))
    if expression := mount.get("subPathExpr"):
        if sub_path:
            detail = "subPathExpr and subPath are mutually exclusive"
            errors.append(field.invalid(where.child("subPathExpr"), expression, detail))
        errors += descending_path_errors(expression, path.child("subPathExpr"))
    return errors


def _propagation_errors(mount: Json, container: Json, path: Path) -> list[FieldError]:
    mode = mount.get("mountPropagation")
    if mode is None:
        return []
    errors: list[FieldError] = []
    if mode not in PROPAGATIONS:
        errors.append(field.not_supported(path, mode, list(PROPAGATIONS)))
    privileged = (container.get("securityContext") or {}).get("privileged")
    if mode == "Bidirectional" and not privileged:
        detail = "Bidirectional mount propagation is available only to privileged containers"
        errors.append(field.forbidden(path, detail))
    return errors


def _recursive_errors(mount: Json, path: Path) -> list[FieldError]:
    mode = mount.get("recursiveReadOnly")
    if mode is None:
        return []
    if mode not in RECURSIVE_MODES:
        return [field.not_supported(path, mode, list(RECURSIVE_MODES))]
    errors: list[FieldError] = []
    if mode != "Disabled":
        if not mount.get("readOnly"):
            errors.append(field.forbidden(path, "may only be specified when readOnly is true"))
        if mount.get("mountPropagation") not in (None, "None"):
            detail = "may only be specified when mountPropagation is None or not specified"
            errors.append(field.forbidden(path, detail))
    return errors


def validate_volume_devices(container: Json, volumes: Mapping[str, Json], path: Path) -> list[FieldError]:
    """Errors of `volumeDevices`: raw block devices, only from claims."""
    errors: list[FieldError] = []
    mounts: Sequence[Json] = container.get("volumeMounts") or ()
    mounted = {mount.get("name"): mount.get("mountPath") for mount in mounts}
    names: set[str] = set()
    paths: set[str] = set()
    for index, device in enumerate(container.get("volumeDevices") or ()):
        where = path.index(index)
        name, device_path = device.get("name", ""), device.get("devicePath", "")
        errors += _device_name_errors(name, names, volumes, where.child("name"))
        if not device_path:
            errors.append(field.required(where.child("devicePath"), ""))
        if device_path in paths:
            errors.append(field.invalid(where.child("devicePath"), device_path, "must be unique"))
        errors += no_backsteps_errors(device_path, path.child("devicePath"))
        paths.add(device_path)
        if name in mounted:
            errors.append(field.invalid(where.child("name"), name, "must not already exist in volumeMounts"))
        if device_path in mounted.values():
            detail = "must not already exist as a path in volumeMounts"
            errors.append(field.invalid(where.child("devicePath"), device_path, detail))
    return errors


def _device_name_errors(name: str, names: set[str], volumes: Mapping[str, Json], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not name:
        errors.append(field.required(path, ""))
    elif name in names:
        errors.append(field.invalid(path, name, "must be unique"))
    if name in volumes:
        source = volumes[name]
        if source.get("persistentVolumeClaim") is None and source.get("ephemeral") is None:
            detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            errors.append(field.invalid(path, name, detail))
    else:
        errors.append(field.not_found(path, name))
    names.add(name)
    return errors
