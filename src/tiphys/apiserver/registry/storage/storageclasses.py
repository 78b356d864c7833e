"""StorageClasses. https://kubernetes.io/docs/concepts/storage/storage-classes/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import UNSET
from tiphys.apiserver.registry.validation.meta import validate_immutable, validate_label_name
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

DEFAULT_ANNOTATIONS: Final = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
MAX_PARAMETERS: Final = 512
MAX_PARAMETER_BYTES: Final = 256 * 1024
RECLAIM_POLICIES: Final = ("Delete", "Retain")
BINDING_MODES: Final = ("Immediate", "WaitForFirstConsumer")


class StorageClassStrategy(TableStrategy):
    """What a class provisions by never changes."""

    def default(self, obj: Object) -> None:
        if obj.get("reclaimPolicy") is None:
            obj["reclaimPolicy"] = "Delete"
        if obj.get("volumeBindingMode") is None:
            obj["volumeBindingMode"] = "Immediate"

    def validate(self, obj: Object) -> list[FieldError]:
        errors = provisioner_errors(obj.get("provisioner") or "", Path("provisioner"))
        errors += parameters_errors(obj.get("parameters") or {}, Path("parameters"))
        policy, mode = obj.get("reclaimPolicy"), obj.get("volumeBindingMode")
        if policy and policy not in RECLAIM_POLICIES:
            errors.append(field.not_supported(Path("reclaimPolicy"), policy, RECLAIM_POLICIES))
        if mode is None:
            errors.append(field.required(Path("volumeBindingMode"), ""))
        elif mode not in BINDING_MODES:
            errors.append(field.not_supported(Path("volumeBindingMode"), mode, BINDING_MODES))
        return errors + _topologies_errors(obj.get("allowedTopologies") or (), Path("allowedTopologies"))

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        errors += validate_immutable(new.get("parameters") or None, old.get("parameters") or None, Path("parameters"))
        for name in ("provisioner", "reclaimPolicy", "volumeBindingMode"):
            errors += validate_immutable(new.get(name), old.get(name), Path(name))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        annotations: Mapping[str, str] = obj["metadata"].get("annotations") or {}
        default = any(annotations.get(name) == "true" for name in DEFAULT_ANNOTATIONS)
        expansion = obj.get("allowVolumeExpansion")
        return [
            f"{name_of(obj)} (default)" if default else name_of(obj),
            obj.get("provisioner") or "",
            obj.get("reclaimPolicy") or "Delete",
            obj.get("volumeBindingMode") or UNSET,
            bool(expansion),
            age(obj, now),
        ]


def provisioner_errors(name: str, path: Path) -> list[FieldError]:
    """Errors of what provisions: a qualified name, in either case."""
    return validate_label_name(name.lower(), path) if name else [field.required(path, "")]


def _topologies_errors(terms: Sequence[Object], path: Path) -> list[FieldError]:
    """Each term names other parts of the cluster, so one that names none is already too many."""
    errors: list[FieldError] = []
    seen: list[Mapping[str, frozenset[str]]] = [{}]
    for index, term in enumerate(terms):
        where = path.index(index).child("matchLabelExpressions")
        found: dict[str, frozenset[str]] = {}
        for number, expression in enumerate(term.get("matchLabelExpressions") or ()):
            at = where.index(number)
            key, values = expression.get("key") or "", expression.get("values") or ()
            if not values:
                errors.append(field.required(at.child("values"), ""))
            errors += [
                field.duplicate(at.child("values").index(i), value)
                for i, value in enumerate(values)
                if value in values[:i]
            ]
            errors += validate_label_name(key, at.child("key"))
            if key in found:
                errors.append(field.duplicate(at.child("key"), key))
            found[key] = frozenset(values)
        if found in seen:
            errors.append(field.duplicate(where, ""))
        seen.append(found)
    return errors


def parameters_errors(parameters: Mapping[str, str], path: Path, *, needed: bool = False) -> list[FieldError]:
    """At most 512 parameters of 256 KiB together, none without a name."""
    errors: list[FieldError] = []
    if len(parameters) > MAX_PARAMETERS:
        errors.append(field.too_long(path, "Provisioner Parameters exceeded max allowed", MAX_PARAMETERS))
        return errors
    size = 0
    for key, value in parameters.items():
        if not key:
            errors.append(field.invalid(path, key, "field can not be empty."))
        size += len(key.encode()) + len(value.encode())
    if size > MAX_PARAMETER_BYTES:
        errors.append(field.too_long(path, "", MAX_PARAMETER_BYTES))
    if needed and not parameters:
        errors.append(field.required(path, "must contain at least one key/value pair"))
    return errors
