"""Volume sources of the storage that once was built in: SANs, clouds, network file systems.

Pods and PersistentVolumes share these rules; most of the volumes themselves are served by CSI drivers now.
https://kubernetes.io/docs/concepts/storage/volumes/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

_ISCSI_NAMES: Final = (
    re.compile(r"iqn\.\d{4}-\d{2}\.([A-Za-z0-9.-]+)(:[^,;*&$|\s]+)", re.ASCII),
    re.compile(r"eui.[A-Za-z0-9]{16}", re.ASCII),
    re.compile(r"naa.[A-Za-z0-9]{32}", re.ASCII),
)
REGISTRY_DETAIL: Final = "must be a host:port pair or multiple pairs separated by commas"
BLOB_URI: Final = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
MANAGED_URI: Final = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"


def _missing(source: Json, path: Path, *names: str) -> list[FieldError]:
    return [field.required(path.child(name), "") for name in names if not source.get(name)]


def _secret_errors(source: Json, path: Path) -> list[FieldError]:
    secret = source.get("secretRef")
    if secret is not None and not secret.get("name"):
        return [field.required(path.child("secretRef", "name"), "")]
    return []


def _partition_errors(source: Json, path: Path) -> list[FieldError]:
    partition = source.get("partition") or 0
    if 0 <= partition <= 255:
        return []
    return [field.invalid(path.child("partition"), partition, formats.in_range(1, 255))]


def validate_gce_disk(source: Json, path: Path) -> list[FieldError]:
    return _missing(source, path, "pdName") + _partition_errors(source, path)


def validate_aws_disk(source: Json, path: Path) -> list[FieldError]:
    return _missing(source, path, "volumeID") + _partition_errors(source, path)


def validate_iscsi(source: Json, path: Path) -> list[FieldError]:
    errors = _missing(source, path, "targetPortal")
    name = source.get("iqn") or ""
    errors += _iscsi_name_errors(name, path.child("iqn")) if name else [field.required(path.child("iqn"), "")]
    lun = source.get("lun", 0)
    if not 0 <= lun <= 255:
        errors.append(field.invalid(path.child("lun"), lun, formats.in_range(0, 255)))
    if (source.get("chapAuthDiscovery") or source.get("chapAuthSession")) and source.get("secretRef") is None:
        errors.append(field.required(path.child("secretRef"), ""))
    initiator = source.get("initiatorName")
    return errors if initiator is None else errors + _iscsi_name_errors(initiator, path.child("initiatorname"))


def _iscsi_name_errors(name: str, path: Path) -> list[FieldError]:
    if not name.startswith(("iqn", "eui", "naa")):
        return [field.invalid(path, name, "must be valid format starting with iqn, eui, or naa")]
    if any(form.fullmatch(name) for form in _ISCSI_NAMES):
        return []
    return [field.invalid(path, name, "must be valid format")]


def validate_fc(source: Json, path: Path) -> list[FieldError]:
    targets, names, lun = source.get("targetWWNs") or [], source.get("wwids") or [], source.get("lun")
    errors: list[FieldError] = []
    if not targets and not names:
        detail = "must specify either targetWWNs or wwids, but not both"
        errors.append(field.required(path.child("targetWWNs"), detail))
    if targets and names:
        detail = "targetWWNs and wwids can not be specified simultaneously"
        errors.append(field.invalid(path.child("targetWWNs"), list(targets), detail))
    if targets:
        if lun is None:
            errors.append(field.required(path.child("lun"), "lun is required if targetWWNs is specified"))
        elif not 0 <= lun <= 255:
            errors.append(field.invalid(path.child("lun"), lun, formats.in_range(0, 255)))
    return errors


def validate_flocker(source: Json, path: Path) -> list[FieldError]:
    name, uid = source.get("datasetName") or "", source.get("datasetUUID") or ""
    errors: list[FieldError] = []
    if not name and not uid:
        errors.append(field.required(path, "one of datasetName and datasetUUID is required"))
    if name and uid:
        detail = "datasetName and datasetUUID can not be specified simultaneously"
        errors.append(field.invalid(path, "resource", detail))
    if "/" in name:
        errors.append(field.invalid(path.child("datasetName"), name, "must not contain '/'"))
    return errors


def validate_quobyte(source: Json, path: Path) -> list[FieldError]:
    registry = source.get("registry") or ""
    errors: list[FieldError] = []
    if not registry:
        errors.append(field.required(path.child("registry"), REGISTRY_DETAIL))
    elif len(source.get("tenant") or "") > 64:
        detail = "must be a UUID and may not exceed a length of 64 characters"
        errors.append(field.required(path.child("tenant"), detail))
    else:
        errors += [
            field.invalid(path.child("registry"), registry, REGISTRY_DETAIL)
            for pair in registry.split(",")
            if pair.count(":") != 1 and not re.fullmatch(r"\[[^\]]*\]:[^:]*", pair)
        ]
    return errors + _missing(source, path, "volume")


def validate_cinder(source: Json, path: Path) -> list[FieldError]:
    return _missing(source, path, "volumeID") + _secret_errors(source, path)


def validate_flex(source: Json, path: Path) -> list[FieldError]:
    errors = _missing(source, path, "driver")
    for key in source.get("options") or {}:
        domain = key.partition("/")[0].lower()
        if f".{domain}".endswith((".kubernetes.io", ".k8s.io")):
            detail = "kubernetes.io and k8s.io namespaces are reserved"
            errors.append(field.invalid(path.child("options").key(key), key, detail))
    return errors


def validate_azure_disk(source: Json, path: Path) -> list[FieldError]:
    caching, kind, uri = source.get("cachingMode"), source.get("kind"), source.get("diskURI") or ""
    errors = _missing(source, path, "diskName", "diskURI")
    modes, kinds = ("None", "ReadOnly", "ReadWrite"), ("Dedicated", "Managed", "Shared")
    if caching is not None and caching not in modes:
        errors.append(field.not_supported(path.child("cachingMode"), caching, modes))
    if kind is not None and kind not in kinds:
        errors.append(field.not_supported(path.child("kind"), kind, kinds))
    if kind == "Managed" and not uri.startswith("/subscriptions/"):
        errors.append(field.not_supported(path.child("diskURI"), uri, [MANAGED_URI]))
    if kind != "Managed" and not uri.startswith("https://"):
        errors.append(field.not_supported(path.child("diskURI"), uri, [BLOB_URI]))
    return errors


def validate_storageos(source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    name, namespace = source.get("volumeName") or "", source.get("volumeNamespace") or ""
    if not name:
        errors.append(field.required(path.child("volumeName"), ""))
    else:
        errors += [field.invalid(path.child("volumeName"), name, message) for message in formats.dns1123_label(name)]
    if namespace:
        messages = formats.dns1123_label(namespace)
        errors += [field.invalid(path.child("volumeNamespace"), namespace, message) for message in messages]
    return errors + _secret_errors(source, path)
