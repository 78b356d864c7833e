"""VolumeAttachments and VolumeAttributesClasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.core.persistentvolumes import inline_volume_errors
from tiphys.apiserver.registry.kinds import StatusStrategy, TableStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.storage.storageclasses import parameters_errors, provisioner_errors
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.volumes import driver_name_errors
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

SPEC: Final = Path("spec")
ONE_SOURCE: Final = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
PROTECTION: Final = "kubernetes.io/vac-protection"


class VolumeAttachmentStrategy(StatusStrategy):
    """Which volume is to be attached to which node; never changes."""

    status_alone: ClassVar[bool] = True

    allow_unconditional_update: ClassVar[bool] = False
    initial_status: ClassVar[Mapping[str, Any]] = {"attached": False}

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        attacher, node = spec.get("attacher") or "", spec.get("nodeName") or ""
        errors = driver_name_errors(attacher, SPEC.child("attacher"))
        errors += _source_errors(spec.get("source") or {}, SPEC.child("source"))
        errors += [field.invalid(SPEC.child("nodeName"), node, one) for one in formats.dns1123_subdomain(node)]
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        if spec_of(new) != spec_of(old):
            errors.append(field.immutable(SPEC, internal_form("VolumeAttachmentSpec", spec_of(new))))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        return [
            name_of(obj),
            spec.get("attacher") or "",
            (spec.get("source") or {}).get("persistentVolumeName") or "",
            spec.get("nodeName") or "",
            bool(status_of(obj).get("attached")),
            age(obj, now),
        ]


def _source_errors(source: Object, path: Path) -> list[FieldError]:
    inline, name = source.get("inlineVolumeSpec"), source.get("persistentVolumeName")
    at = path.child("persistentVolumeName")
    errors: list[FieldError] = []
    if inline is None and name is None:
        return [field.required(path, ONE_SOURCE)]
    if inline is not None and name is not None:
        errors.append(field.forbidden(path, ONE_SOURCE))
    elif name == "":
        errors.append(field.required(at, "must specify non empty persistentVolumeName"))
    if name is not None:
        return errors + [field.invalid(at, name, message) for message in formats.dns1123_subdomain(name)]
    return errors + inline_volume_errors(inline or {}, path.child("inlineVolumeSpec"))


class VolumeAttributesClassStrategy(TableStrategy):
    """Parameters a volume may be changed to; never change themselves."""

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        """A class in use is protected."""
        finalizers = list(obj["metadata"].get("finalizers") or ())
        if PROTECTION not in finalizers:
            obj["metadata"]["finalizers"] = [*finalizers, PROTECTION]

    def validate(self, obj: Object) -> list[FieldError]:
        errors = provisioner_errors(obj.get("driverName") or "", Path("driverName"))
        return errors + parameters_errors(obj.get("parameters") or {}, Path("parameters"), needed=True)

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        names = ("driverName", "parameters")
        changed = [name for name in names if (new.get(name) or None) != (old.get(name) or None)]
        return self.validate(new) + [
            field.forbidden(Path(name), f"updates to {name} are forbidden.") for name in changed
        ]

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), obj.get("driverName") or "", age(obj, now)]
