"""PersistentVolumeClaims. https://kubernetes.io/docs/concepts/storage/persistent-volumes/#persistentvolumeclaims"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.defaults.pod import default_resources
from tiphys.apiserver.registry.defaults.volume import default_claim_spec
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.tables import UNSET
from tiphys.apiserver.registry.validation.claims import validate_access_modes, validate_claim_spec
from tiphys.apiserver.registry.validation.internal import difference
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.apiserver.registry.validation.pod_warnings import claim_warnings
from tiphys.apiserver.registry.validation.resources import validate_quantity
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

SPEC: Final = Path("spec")
IMMUTABLE_DETAIL: Final = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"
)
MODES: Final = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
CLASS_DEPRECATED: Final = 'deprecated since v1.8; use "storageClassName" attribute instead'
CLASS_ANNOTATION: Final = "volume.beta.kubernetes.io/storage-class"


class PersistentVolumeClaimStrategy(StatusStrategy):
    """A claim's spec stays, but a bound claim may ask for more."""

    initial_status: ClassVar[Mapping[str, Any]] = {"phase": "Pending"}
    first_update_writes: ClassVar[bool] = True  # the phase is what upstream fills in

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_claim_spec(spec)
        if resources := spec.get("resources"):
            default_resources(resources)
        if obj.get("status") is not None and not obj["status"].get("phase"):
            obj["status"]["phase"] = "Pending"

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        _mirror_data_source(obj["spec"])

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_update(ctx, new, old)
        _mirror_data_source(new["spec"])

    def validate(self, obj: Object) -> list[FieldError]:
        return validate_claim_spec(spec_of(obj), SPEC)

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        found: list[str] = []
        if CLASS_ANNOTATION in (obj["metadata"].get("annotations") or {}):
            found.append(f"metadata.annotations[{CLASS_ANNOTATION}]: {CLASS_DEPRECATED}")
        return found + claim_warnings(spec_of(obj), SPEC)

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        spec, known = spec_of(new), spec_of(old)
        munged = _without_mutable(spec, known, status_of(old))
        if munged != known:
            errors.append(
                field.forbidden(SPEC, IMMUTABLE_DETAIL + difference("PersistentVolumeClaimSpec", known, munged))
            )
        errors += validate_immutable(spec.get("volumeMode"), known.get("volumeMode"), Path("volumeMode"))
        return errors + _shrink_errors(spec, known, status_of(old))

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        status = status_of(new)
        errors: list[FieldError] = []
        if status.get("accessModes"):
            errors += validate_access_modes(list(status["accessModes"]), Path("status").child("accessModes"))
        for name, quantity in sorted((status.get("capacity") or {}).items()):
            errors += validate_quantity(name, quantity, Path("status").child("capacity").key(name))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        phase = "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase") or ""
        volume, capacity, modes = "", "", ""
        if spec.get("volumeName"):
            volume = spec["volumeName"]
            capacity = (status.get("capacity") or {}).get("storage", "0")
            modes = modes_text(status.get("accessModes") or ())
        return [
            name_of(obj),
            phase,
            volume,
            capacity,
            modes,
            storage_class(obj),
            spec.get("volumeAttributesClassName") or UNSET,
            age(obj, now),
            spec.get("volumeMode") or UNSET,
        ]


# What `dataSource` may be; anything else is for `dataSourceRef`.
DATA_SOURCES: Final = (("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot"))


def _mirror_data_source(spec: Object) -> None:
    """An impossible dataSource is dropped; then dataSource and dataSourceRef say the same where only one is set."""
    source = spec.get("dataSource")
    possible = source is None or (source.get("apiGroup") or "", source.get("kind")) in DATA_SOURCES
    if not possible and spec.get("dataSourceRef") is None:
        del spec["dataSource"]
        source = None
    reference = spec.get("dataSourceRef")
    if source is not None and reference is None:
        spec["dataSourceRef"] = dict(source)
    elif reference is not None and source is None and not reference.get("namespace"):
        spec["dataSource"] = dict(reference)


def modes_text(modes: Sequence[str]) -> str:
    """Access modes as `RWO,ROX,RWX`, each once, in this order."""
    return ",".join(short for mode, short in MODES.items() if mode in modes)


def storage_class(obj: Object) -> str:
    """The class of a claim or volume, from the old annotation where there is one."""
    annotated = (obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION)
    return annotated or spec_of(obj).get("storageClassName") or ""


def _without_mutable(spec: Object, known: Object, status: Object) -> Object:
    """The new spec with everything that may change put back."""
    munged: Object = deepcopy(spec)
    if not known.get("volumeName") and munged.get("volumeName"):
        # The binder's part.
        munged.pop("volumeName")
    if known.get("storageClassName") is None and munged.get("storageClassName") is not None:
        munged.pop("storageClassName")
    if known.get("volumeName") and status.get("phase") == "Bound":
        requests = (munged.get("resources") or {}).get("requests")
        wanted = ((known.get("resources") or {}).get("requests") or {}).get("storage")
        if requests is not None and wanted is not None and "storage" in requests:
            requests["storage"] = wanted
        if "volumeAttributesClassName" in known:
            munged["volumeAttributesClassName"] = known["volumeAttributesClassName"]
        else:
            munged.pop("volumeAttributesClassName", None)
    return munged


def _shrink_errors(spec: Object, known: Object, status: Object) -> list[FieldError]:
    now = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    before = ((known.get("resources") or {}).get("requests") or {}).get("storage")
    if now is None or before is None or Quantity.parse(now) >= Quantity.parse(before):
        return []
    capacity = (status.get("capacity") or {}).get("storage") or 0  # nothing is provisioned yet: any size will do
    if Quantity.parse(now) <= Quantity.parse(capacity):
        detail = "field can not be less than status.capacity"
        return [field.forbidden(SPEC.child("resources", "requests", "storage"), detail)]
    return []
