"""PersistentVolumes. https://kubernetes.io/docs/concepts/storage/persistent-volumes/"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from tiphys.apiserver.registry.core.persistentvolumeclaims import modes_text, storage_class
from tiphys.apiserver.registry.defaults.pod import round_resource_list
from tiphys.apiserver.registry.defaults.volume import default_persistent_source
from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.tables import UNSET
from tiphys.apiserver.registry.validation.claims import ACCESS_MODES, VOLUME_MODES
from tiphys.apiserver.registry.validation.internal import difference
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
)
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.apiserver.registry.validation.pod_warnings import DEPRECATED_NODE_LABELS, REMOVED_VOLUMES
from tiphys.apiserver.registry.validation.selectors import validate_node_selector
from tiphys.apiserver.registry.validation.volumes import (
    FIELD_SPELLINGS,
    driver_name_errors,
    required_fields,
    validate_host_path,
    validate_nfs,
)
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity
from tiphys.machinery.time import format_time

SPEC: Final = Path("spec")
NOT_INLINE: Final = "may not be specified in the context of inline volumes"
RECLAIM_POLICIES: Final = ("Delete", "Recycle", "Retain")
# A source as its warning calls it.
SPELLED: Final = {"storageos": "storageOS"}
RECYCLE_DEPRECATED: Final = (
    "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."
)
SOURCE_DETAIL: Final = "spec.persistentvolumesource is immutable after creation\n"


class PersistentVolumeStrategy(TableStrategy):
    """A volume's source, mode and place never change."""

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if not spec.get("persistentVolumeReclaimPolicy"):
            spec["persistentVolumeReclaimPolicy"] = "Retain"
        if spec.get("volumeMode") is None:
            spec["volumeMode"] = "Filesystem"
        default_persistent_source(spec)
        round_resource_list(spec.get("capacity"))

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        obj["status"] = {"phase": "Pending", "lastPhaseTransitionTime": format_time(ctx.now)}

    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """A change of phase is dated by the server, unless the client dates it."""
        super().prepare_for_status_update(ctx, new, old)
        status, known = new.setdefault("status", {}), status_of(old)
        same_time = status.get("lastPhaseTransitionTime") == known.get("lastPhaseTransitionTime")
        if status.get("phase") != known.get("phase") and (same_time or not status.get("lastPhaseTransitionTime")):
            status["lastPhaseTransitionTime"] = format_time(ctx.now)

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = _mode_errors(spec) + _capacity_errors(spec.get("capacity") or {})
        if (policy := spec.get("persistentVolumeReclaimPolicy")) and policy not in RECLAIM_POLICIES:
            where = SPEC.child("persistentVolumeReclaimPolicy")
            errors.append(field.not_supported(where, policy, RECLAIM_POLICIES))
        errors += _affinity_errors(spec)
        errors += _source_errors(spec)
        path = (spec.get("hostPath") or {}).get("path")
        if path == "/" and spec.get("persistentVolumeReclaimPolicy") == "Recycle":
            where = SPEC.child("persistentVolumeReclaimPolicy")
            errors.append(field.forbidden(where, "may not be 'recycle' for a hostPath mount of '/'"))
        if value := spec.get("storageClassName"):
            where = SPEC.child("storageClassName")
            errors += [field.invalid(where, value, one) for one in formats.dns1123_subdomain(value)]
        mode = spec.get("volumeMode")
        if mode is not None and mode not in VOLUME_MODES:
            errors.append(field.not_supported(SPEC.child("volumeMode"), mode, VOLUME_MODES))
        if (value := spec.get("volumeAttributesClassName")) is not None:
            where = SPEC.child("volumeAttributesClassName")
            if not value:
                errors.append(field.required(where, "an empty string is disallowed"))
            else:
                errors += [field.invalid(where, value, one) for one in formats.dns1123_subdomain(value)]
            if spec.get("csi") is None:
                detail = "has to be specified when using volumeAttributesClassName"
                errors.append(field.required(SPEC.child("csi"), detail))
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        spec = spec_of(obj)
        found: list[str] = []
        terms = ((spec.get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or ()
        for index, term in enumerate(terms):
            path = SPEC.child("nodeAffinity", "required", "nodeSelectorTerms").index(index).child("matchExpressions")
            for number, expression in enumerate(term.get("matchExpressions") or ()):
                key = expression.get("key")
                if key in DEPRECATED_NODE_LABELS:
                    found.append(f"{path.index(number).child('key')}: {key} is {DEPRECATED_NODE_LABELS[key]}")
        if spec.get("persistentVolumeReclaimPolicy") == "Recycle":
            found.append(f"{SPEC.child('persistentVolumeReclaimPolicy')}: {RECYCLE_DEPRECATED}")
        for kind, text in REMOVED_VOLUMES.items():
            if spec.get(kind) is not None:
                found.append(f"{SPEC.child(SPELLED.get(kind, kind))}: {text}")
        return found

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        spec, known = spec_of(new), spec_of(old)
        now, before = _source(spec), _source(known)
        if now != before and not _only_secret_added(now, before):
            text = difference("PersistentVolumeSource", before, now)
            errors.append(field.forbidden(SPEC.child("persistentvolumesource"), SOURCE_DETAIL + text))
        errors += validate_immutable(spec.get("volumeMode"), known.get("volumeMode"), Path("volumeMode"))
        if known.get("nodeAffinity") is not None and spec.get("nodeAffinity") != known["nodeAffinity"]:
            detail = "field is immutable, except for updating from beta label to GA"
            errors.append(field.invalid(Path("nodeAffinity"), spec.get("nodeAffinity"), detail))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        claim = spec.get("claimRef")
        phase = "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase") or ""
        return [
            name_of(obj),
            (spec.get("capacity") or {}).get("storage", ""),
            modes_text(spec.get("accessModes") or ()),
            spec.get("persistentVolumeReclaimPolicy") or "",
            phase,
            f"{claim.get('namespace') or ''}/{claim.get('name') or ''}" if claim else "",
            storage_class(obj),
            spec.get("volumeAttributesClassName") or UNSET,
            status.get("reason") or "",
            age(obj, now),
            spec.get("volumeMode") or UNSET,
        ]


def inline_volume_errors(spec: Object, path: Path) -> list[FieldError]:
    """Errors at `path` of the spec of a volume that is no object of its own: a CSI volume, and nothing of objects."""
    errors: list[FieldError] = []
    if spec.get("claimRef") is not None:
        errors.append(field.forbidden(path.child("claimRef"), NOT_INLINE))
    if spec.get("capacity"):
        errors.append(field.forbidden(path.child("capacity"), NOT_INLINE))
    if spec.get("csi") is None:
        errors.append(field.required(path.child("csi"), "has to be specified in the context of inline volumes"))
    errors += _moved(_mode_errors(spec), path)
    if spec.get("nodeAffinity") is not None:
        errors.append(field.forbidden(path.child("nodeAffinity"), NOT_INLINE))
    errors += _moved(_source_errors(spec), path)
    policy = spec.get("persistentVolumeReclaimPolicy")
    if policy and policy != "Retain":
        detail = "may only be Retain in the context of inline volumes"
        errors.append(field.forbidden(path.child("persistentVolumeReclaimPolicy"), detail))
    if spec.get("storageClassName"):
        errors.append(field.forbidden(path.child("storageClassName"), NOT_INLINE))
    if spec.get("volumeMode") not in (None, "Filesystem"):
        detail = "may not specify volumeMode other than Filesystem in the context of inline volumes"
        errors.append(field.forbidden(path.child("volumeMode"), detail))
    return errors


def _moved(errors: list[FieldError], path: Path) -> list[FieldError]:
    """Errors below `spec` as errors below `path`."""
    return [replace(error, field=str(path) + error.field.removeprefix(str(SPEC))) for error in errors]


def _mode_errors(spec: Object) -> list[FieldError]:
    modes = list(spec.get("accessModes") or ())
    where = SPEC.child("accessModes")
    errors: list[FieldError] = []
    if not modes:
        errors.append(field.required(where, ""))
    errors.extend(field.not_supported(where, mode, ACCESS_MODES) for mode in modes if mode not in ACCESS_MODES)
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        errors.append(field.forbidden(where, "may not use ReadWriteOncePod with other access modes"))
    return errors


def _capacity_errors(capacity: Mapping[str, str]) -> list[FieldError]:
    where = SPEC.child("capacity")
    errors: list[FieldError] = [] if capacity else [field.required(where, "")]
    if set(capacity) != {"storage"}:
        errors.append(field.not_supported(where, dict(capacity) or None, ["storage"]))
    for name in sorted(capacity):
        quantity = Quantity.parse(capacity[name])
        if quantity < Quantity.parse("0"):
            whole = quantity.milli_value() // 1000
            errors.append(field.invalid(where.key(name), whole, "must be a valid resource quantity"))
        if quantity <= Quantity.parse("0"):
            errors.append(field.invalid(where.key(name), str(quantity), "must be greater than zero"))
    return errors


def _affinity_errors(spec: Object) -> list[FieldError]:
    affinity = spec.get("nodeAffinity")
    where = SPEC.child("nodeAffinity")
    if affinity is None:
        return [field.required(where, "Local volume requires node affinity")] if spec.get("local") else []
    if affinity.get("required") is None:
        return [field.required(where.child("required"), "must specify required node constraints")]
    return validate_node_selector(affinity["required"], where.child("required"))


def _csi(source: Mapping[str, Any], path: Path) -> list[FieldError]:
    errors = driver_name_errors(source.get("driver") or "", path.child("driver"))
    if not source.get("volumeHandle"):
        errors.append(field.required(path.child("volumeHandle"), ""))
    for name in CSI_SECRETS:
        secret = source.get(name)
        if secret is not None:
            parts = [part for part in ("name", "namespace") if not secret.get(part)]
            errors += [field.required(path.child(name, part), "") for part in parts]
    return errors


CSI_SECRETS: Final = (
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
)


def _local(source: Mapping[str, Any], path: Path) -> list[FieldError]:
    value = source.get("path") or ""
    if not value:
        return [field.required(path.child("path"), "")]
    if ".." in value.split("/"):
        return [field.invalid(path.child("path"), value, "must not contain '..'")]
    return []


SOURCES: Final[Sequence[tuple[str, Callable[[Mapping[str, Any], Path], list[FieldError]]]]] = (
    ("hostPath", validate_host_path),
    ("gcePersistentDisk", validate_gce_disk),
    ("awsElasticBlockStore", validate_aws_disk),
    ("glusterfs", required_fields("endpoints", "path")),
    ("flocker", validate_flocker),
    ("nfs", validate_nfs),
    ("rbd", required_fields("monitors", "image")),
    ("quobyte", validate_quobyte),
    ("cephfs", required_fields("monitors")),
    ("iscsi", validate_iscsi),
    ("cinder", validate_cinder),
    ("fc", validate_fc),
    ("flexVolume", validate_flex),
    ("azureFile", required_fields("secretName", "shareName")),
    ("vsphereVolume", required_fields("volumePath")),
    ("azureDisk", validate_azure_disk),
    ("photonPersistentDisk", required_fields("pdID")),
    ("portworxVolume", required_fields("volumeID")),
    ("scaleIO", required_fields("gateway", "system", "volumeName")),
    ("local", _local),
    ("storageos", required_fields()),
    ("csi", _csi),
)


def _source_errors(spec: Object) -> list[FieldError]:
    errors: list[FieldError] = []
    found = False
    for kind, check in SOURCES:
        source = spec.get(kind)
        if source is None:
            continue
        if found:
            errors.append(field.forbidden(SPEC.child(kind), "may not specify more than 1 volume type"))
            continue
        found = True
        errors += check(source, SPEC.child(FIELD_SPELLINGS.get(kind, kind)))
    if not found:
        errors.append(field.required(SPEC, "must specify a volume type"))
    return errors


def _source(spec: Object) -> Object:
    return {kind: spec[kind] for kind, _ in SOURCES if spec.get(kind) is not None}


def _only_secret_added(now: Object, before: Object) -> bool:
    """A CSI volume may be told later which secret expands it."""
    csi, old = now.get("csi"), before.get("csi")
    if csi is None or old is None or old.get("controllerExpandSecretRef") is not None:
        return False
    rest = {key: value for key, value in csi.items() if key != "controllerExpandSecretRef"}
    return rest == {key: value for key, value in old.items() if key != "controllerExpandSecretRef"}
