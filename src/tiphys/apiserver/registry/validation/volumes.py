"""The volumes of a pod.

https://kubernetes.io/docs/concepts/storage/volumes/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.validation.claims import validate_claim_template
from tiphys.apiserver.registry.validation.env import (
    VOLUME_FIELDS,
    validate_field_reference,
    validate_resource_reference,
)
from tiphys.apiserver.registry.validation.legacy_volumes import (
    validate_aws_disk,
    validate_azure_disk,
    validate_cinder,
    validate_fc,
    validate_flex,
    validate_flocker,
    validate_gce_disk,
    validate_iscsi,
    validate_quobyte,
    validate_storageos,
)
from tiphys.apiserver.registry.validation.mounts import no_backsteps_errors, non_reserved_path_errors
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

Json = Mapping[str, Any]

HOST_PATH_TYPES: Final = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
MODE_DETAIL: Final = "must be a number between 0 and 0777 (octal), both inclusive"
# Tokens live at least ten minutes and at most 2^32 seconds.
MIN_TOKEN_SECONDS: Final = 600
MAX_TOKEN_SECONDS: Final = 1 << 32


def validate_volumes(volumes: Sequence[Json], path: Path) -> tuple[dict[str, Json], list[FieldError]]:
    """The valid volumes by name, and the errors of the others."""
    errors: list[FieldError] = []
    valid: dict[str, Json] = {}
    for index, volume in enumerate(volumes):
        where = path.index(index)
        found = validate_volume_source(volume, where)
        name = volume.get("name", "")
        if not name:
            found.append(field.required(where.child("name"), ""))
        else:
            found += [field.invalid(where.child("name"), name, message) for message in formats.dns1123_label(name)]
        if name in valid:
            found.append(field.duplicate(where.child("name"), name))
        if found:
            errors += found
        else:
            valid[name] = volume
    return valid, errors


def validate_volume_source(volume: Json, path: Path) -> list[FieldError]:
    """Exactly one source, and that one valid."""
    errors: list[FieldError] = []
    found = False
    for kind, check in SOURCES:
        source = volume.get(kind)
        if source is None:
            continue
        if found:
            where = path.child(SURPLUS_SPELLINGS.get(kind, kind))
            errors.append(field.forbidden(where, "may not specify more than 1 volume type"))
            continue
        found = True
        errors += check(source, path.child(FIELD_SPELLINGS.get(kind, kind)))
    if not found:
        errors.append(field.required(path, "must specify a volume type"))
    return errors


def _empty_dir(source: Json, path: Path) -> list[FieldError]:
    limit = source.get("sizeLimit")
    if limit is not None and Quantity.parse(limit) < Quantity.parse("0"):
        return [field.forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity")]
    return []


def validate_host_path(source: Json, path: Path) -> list[FieldError]:
    value = source.get("path", "")
    if not value:
        return [field.required(path.child("path"), "")]
    errors = no_backsteps_errors(value, path.child("path"))
    kind = source.get("type")
    if kind is not None and kind not in HOST_PATH_TYPES:
        errors.append(field.not_supported(path.child("type"), kind, list(HOST_PATH_TYPES)))
    return errors


def _git_repo(source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not source.get("repository"):
        errors.append(field.required(path.child("repository"), ""))
    return errors + non_reserved_path_errors(source.get("directory", ""), path.child("directory"))


def required_fields(*names: str) -> Callable[[Json, Path], list[FieldError]]:
    """A check that only asks for some fields not to be empty."""

    def check(source: Json, path: Path) -> list[FieldError]:
        return [field.required(path.child(name), "") for name in names if not source.get(name)]

    return check


def mode_errors(source: Json, name: str, path: Path) -> list[FieldError]:
    mode = source.get(name)
    if mode is not None and not 0 <= mode <= 0o777:
        return [field.invalid(path.child(name), mode, MODE_DETAIL)]
    return []


def _secret(source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not source.get("secretName"):
        errors.append(field.required(path.child("secretName"), ""))
    return errors + mode_errors(source, "defaultMode", path) + _items(source, path)


def _config_map(source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not source.get("name"):
        errors.append(field.required(path.child("name"), ""))
    return errors + mode_errors(source, "defaultMode", path) + _items(source, path)


def _items(source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, item in enumerate(source.get("items") or ()):
        where = path.child("items").index(index)
        if not item.get("key"):
            errors.append(field.required(where.child("key"), ""))
        if not item.get("path"):
            errors.append(field.required(where.child("path"), ""))
        errors += non_reserved_path_errors(item.get("path", ""), where.child("path"))
        errors += mode_errors(item, "mode", where)
    return errors


def validate_nfs(source: Json, path: Path) -> list[FieldError]:
    errors = required_fields("server", "path")(source, path)
    value = source.get("path", "")
    if not value.startswith("/"):
        errors.append(field.invalid(path.child("path"), value, "must be an absolute path"))
    return errors


def _downward(source: Json, path: Path) -> list[FieldError]:
    errors = mode_errors(source, "defaultMode", path)
    for item in source.get("items") or ():
        errors += _downward_file(item, path)
    return errors


def _downward_file(item: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not item.get("path"):
        errors.append(field.required(path.child("path"), ""))
    errors += non_reserved_path_errors(item.get("path", ""), path.child("path"))
    reference, resource = item.get("fieldRef"), item.get("resourceFieldRef")
    if reference is not None:
        errors += validate_field_reference(reference, VOLUME_FIELDS, path.child("fieldRef"))
        if resource is not None:
            detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
            errors.append(field.invalid(path, "resource", detail))
    elif resource is not None:
        errors += validate_resource_reference(resource, path.child("resourceFieldRef"), in_volume=True)
    else:
        errors.append(field.required(path, "one of fieldRef and resourceFieldRef is required"))
    return errors + mode_errors(item, "mode", path)


def _projected(source: Json, path: Path) -> list[FieldError]:
    """Every source is of one kind; what comes from secrets, config maps and fields does not meet at one path."""
    errors = mode_errors(source, "defaultMode", path)
    seen: set[str] = set()
    for index, projection in enumerate(source.get("sources") or ()):
        where = path.child("sources").index(index)
        for position, kind in enumerate(kind for kind in PROJECTIONS if projection.get(kind) is not None):
            errors += PROJECTIONS[kind](projection[kind], where.child(kind), path)
            if position:
                errors.append(field.forbidden(where, "may not specify more than 1 volume type per source"))
            if kind == "serviceAccountToken":
                continue  # its path is its own: a warning at most
            for item in projection[kind].get("items") or ():
                name = item.get("path")
                if name in seen:
                    told = name if kind == "downwardAPI" else projection[kind].get("name") or ""
                    errors.append(field.invalid(path, told, "conflicting duplicate paths"))
                elif name:
                    seen.add(name)
    return errors


def _named_projection(source: Json, path: Path, top: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not source.get("name"):
        errors.append(field.required(path.child("name"), ""))
    return errors + _items(source, path)


def _downward_projection(source: Json, path: Path, top: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for item in source.get("items") or ():
        errors += _downward_file(item, path)
    return errors


def _token_projection(source: Json, path: Path, top: Path) -> list[FieldError]:
    errors = token_seconds_errors(source.get("expirationSeconds") or 0, path.child("expirationSeconds"))
    if not source.get("path"):
        errors.append(field.required(top.child("path"), ""))
    else:
        errors += non_reserved_path_errors(source["path"], top.child("path"))
    return errors


def token_seconds_errors(seconds: int, path: Path) -> list[FieldError]:
    """The life of a service-account token, in seconds."""
    if seconds < MIN_TOKEN_SECONDS:
        return [field.invalid(path, seconds, "may not specify a duration less than 10 minutes")]
    if seconds > MAX_TOKEN_SECONDS:
        return [field.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")]
    return []


PROJECTIONS: Final[Mapping[str, Callable[[Json, Path, Path], list[FieldError]]]] = {
    "secret": _named_projection,
    "configMap": _named_projection,
    "downwardAPI": _downward_projection,
    "serviceAccountToken": _token_projection,
}


def driver_name_errors(driver: str, path: Path) -> list[FieldError]:
    """The name of a CSI driver: a DNS subdomain, in any case, of at most 63 characters."""
    if not driver:
        return [field.required(path, "")]
    errors: list[FieldError] = []
    if len(driver) > 63:
        errors.append(field.too_long(path, driver, 63))
    return errors + [field.invalid(path, driver, message) for message in formats.dns1123_subdomain(driver.lower())]


def _csi(source: Json, path: Path) -> list[FieldError]:
    errors = driver_name_errors(source.get("driver", ""), path.child("driver"))
    reference = source.get("nodePublishSecretRef")
    if reference is not None and not reference.get("name"):
        errors.append(field.required(path.child("nodePublishSecretRef").child("name"), ""))
    return errors


def _ephemeral(source: Json, path: Path) -> list[FieldError]:
    template = source.get("volumeClaimTemplate")
    if template is None:
        return [field.required(path.child("volumeClaimTemplate"), "")]
    return validate_claim_template(template, path.child("volumeClaimTemplate"))


def _image(source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not source.get("reference"):
        errors.append(field.required(path.child("reference"), ""))
    policy = source.get("pullPolicy", "")
    if policy not in PULL_POLICIES:
        errors.append(field.not_supported(path.child("pullPolicy"), policy, list(PULL_POLICIES)))
    return errors


# In the order the API judges them: a pod that names several hears of the later ones.
SOURCES: Final[tuple[tuple[str, Callable[[Json, Path], list[FieldError]]], ...]] = (
    ("emptyDir", _empty_dir),
    ("hostPath", validate_host_path),
    ("gitRepo", _git_repo),
    ("gcePersistentDisk", validate_gce_disk),
    ("awsElasticBlockStore", validate_aws_disk),
    ("secret", _secret),
    ("nfs", validate_nfs),
    ("iscsi", validate_iscsi),
    ("glusterfs", required_fields("endpoints", "path")),
    ("flocker", validate_flocker),
    ("persistentVolumeClaim", required_fields("claimName")),
    ("rbd", required_fields("monitors", "image")),
    ("cinder", validate_cinder),
    ("cephfs", required_fields("monitors")),
    ("quobyte", validate_quobyte),
    ("downwardAPI", _downward),
    ("fc", validate_fc),
    ("flexVolume", validate_flex),
    ("configMap", _config_map),
    ("azureFile", required_fields("secretName", "shareName")),
    ("vsphereVolume", required_fields("volumePath")),
    ("photonPersistentDisk", required_fields("pdID")),
    ("portworxVolume", required_fields("volumeID")),
    ("azureDisk", validate_azure_disk),
    ("storageos", validate_storageos),
    ("projected", _projected),
    ("scaleIO", required_fields("gateway", "system", "volumeName")),
    ("csi", _csi),
    ("ephemeral", _ephemeral),
    ("image", _image),
)
# What messages call a source that they spell in their own way: in errors of its fields, and when it is one too many.
FIELD_SPELLINGS: Final = {"gcePersistentDisk": "persistentDisk"}
SURPLUS_SPELLINGS: Final = {"cephfs": "cephFS", "downwardAPI": "downwarAPI"}
