"""PersistentVolumeClaim specs, also inside templates of stateful sets and ephemeral volumes.

https://kubernetes.io/docs/concepts/storage/persistent-volumes/#persistentvolumeclaims
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tiphys.apiserver.registry.validation.meta import validate_annotations, validate_labels
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

Json = Mapping[str, Any]

ACCESS_MODES: Final = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
VOLUME_MODES: Final = ("Block", "Filesystem")


def validate_claim_template(template: Json, path: Path) -> list[FieldError]:
    """Errors of a PersistentVolumeClaimTemplate of an ephemeral volume."""
    metadata = template.get("metadata") or {}
    errors = validate_labels(metadata.get("labels") or {}, path.child("metadata").child("labels"))
    errors += validate_annotations(metadata.get("annotations") or {}, path.child("metadata").child("annotations"))
    errors += [
        field.forbidden(path.child("metadata").child("uID" if name == "uid" else name), "cannot be set")
        for name in metadata
        if name not in ("labels", "annotations") and metadata[name]
    ]
    return errors + validate_claim_spec(template.get("spec") or {}, path.child("spec"))


def validate_access_modes(modes: list[str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not modes:
        errors.append(field.required(path, "at least 1 access mode is required"))
    errors.extend(field.not_supported(path, mode, list(ACCESS_MODES)) for mode in modes if mode not in ACCESS_MODES)
    if "ReadWriteOncePod" in modes and len(set(modes)) > 1:
        errors.append(field.forbidden(path, "may not use ReadWriteOncePod with other access modes"))
    return errors


def validate_claim_spec(spec: Json, path: Path) -> list[FieldError]:
    """Errors of a PersistentVolumeClaimSpec."""
    errors = validate_access_modes(list(spec.get("accessModes") or ()), path.child("accessModes"))
    errors += validate_label_selector(spec.get("selector"), path.child("selector"))
    errors += _storage_errors(spec, path.child("resources").key("storage"))
    errors += _class_name_errors(spec, "storageClassName", path)
    mode = spec.get("volumeMode")
    if mode is not None and mode not in VOLUME_MODES:
        errors.append(field.not_supported(path.child("volumeMode"), mode, list(VOLUME_MODES)))
    errors += _data_source_errors(spec, path)
    return errors + _class_name_errors(spec, "volumeAttributesClassName", path)


def _class_name_errors(spec: Json, name: str, path: Path) -> list[FieldError]:
    value = spec.get(name)
    if not value:
        return []
    return [field.invalid(path.child(name), value, message) for message in formats.dns1123_subdomain(value)]


def _storage_errors(spec: Json, path: Path) -> list[FieldError]:
    requested = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if requested is None:
        return [field.required(path, "")]
    quantity = Quantity.parse(requested)
    return [] if quantity > Quantity.parse("0") else [field.invalid(path, str(quantity), "must be greater than zero")]


def _data_source_errors(spec: Json, path: Path) -> list[FieldError]:
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    errors: list[FieldError] = []
    if source is not None:
        errors += _reference_errors(source, path.child("dataSource"))
    if reference is not None:
        errors += _reference_errors(reference, path.child("dataSourceRef"))
    if source is not None and reference is not None and not reference.get("namespace"):
        keys = ("apiGroup", "kind", "name")
        if any((source.get(key) or "") != (reference.get(key) or "") for key in keys):
            errors.append(field.invalid(path, str(path.child("dataSource")), "must match dataSourceRef"))
    return errors


def _reference_errors(reference: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not reference.get("name"):
        errors.append(field.required(path.child("name"), ""))
    kind, group = reference.get("kind", ""), reference.get("apiGroup") or ""
    if not kind:
        errors.append(field.required(path.child("kind"), ""))
    if not group and kind != "PersistentVolumeClaim":
        detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
        errors.append(field.invalid(path, kind, detail))
    return errors
