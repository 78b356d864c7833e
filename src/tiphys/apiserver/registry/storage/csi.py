"""CSIDrivers, CSINodes and CSIStorageCapacities.

https://kubernetes.io/docs/concepts/storage/volumes/#csi
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.tables import UNSET
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import NOT_NEGATIVE, validate_immutable, validate_label_name
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.apiserver.registry.validation.volumes import driver_name_errors
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

SPEC: Final = Path("spec")
GROUP_POLICIES: Final = ("File", "None", "ReadWriteOnceWithFSType")
LIFECYCLES: Final = ("Persistent", "Ephemeral")
# In seconds.
MIN_TOKEN: Final = 600
MIN_UPDATE_PERIOD: Final = 10
MAX_TOKEN: Final = 1 << 32
UNSET_SECRETS: Final = (
    "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible "
    "logging of tokens in volume attributes"
)


class CSIDriverStrategy(TableStrategy):
    """How a driver wants to be called; attaching and lifecycles never change."""

    allow_unconditional_update: ClassVar[bool] = False
    generation: ClassVar[bool | None] = True

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        obj["metadata"].pop("generation", None)  # only changes are counted
        spec_of(obj).pop("preventPodSchedulingIfMissing", None)  # behind a feature gate that is off

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        for name, value in (
            ("attachRequired", True),
            ("podInfoOnMount", False),
            ("storageCapacity", False),
            ("fsGroupPolicy", "ReadWriteOnceWithFSType"),
            ("requiresRepublish", False),
            ("seLinuxMount", False),
        ):
            if spec.get(name) is None:
                spec[name] = value
        if not spec.get("volumeLifecycleModes"):
            spec["volumeLifecycleModes"] = ["Persistent"]

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        needed = ("attachRequired", "podInfoOnMount", "storageCapacity")
        errors = [field.required(SPEC.child(name), "") for name in needed if spec.get(name) is None]
        policy = spec.get("fsGroupPolicy")
        if policy is not None and policy not in GROUP_POLICIES:
            errors.append(field.not_supported(SPEC.child("fsGroupPolicy"), policy, GROUP_POLICIES))
        errors += _token_errors(spec.get("tokenRequests") or ())
        for mode in spec.get("volumeLifecycleModes") or ():
            if mode not in LIFECYCLES:
                errors.append(field.not_supported(SPEC.child("volumeLifecycleModes"), mode, LIFECYCLES))
        period, secrets = spec.get("nodeAllocatableUpdatePeriodSeconds"), spec.get("serviceAccountTokenInSecrets")
        if period is not None and period < MIN_UPDATE_PERIOD:
            detail = f"must be greater than or equal to {MIN_UPDATE_PERIOD} seconds"
            errors.append(field.invalid(SPEC.child("nodeAllocatableUpdatePeriodSeconds"), period, detail))
        if secrets is not None and not spec.get("tokenRequests"):
            detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified"
            errors.append(field.invalid(SPEC.child("serviceAccountTokenInSecrets"), secrets, detail))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        for name in ("attachRequired", "volumeLifecycleModes"):
            errors += validate_immutable(spec_of(new).get(name), spec_of(old).get(name), SPEC.child(name))
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        spec = spec_of(obj)
        asked, known = spec.get("tokenRequests"), None if old is None else spec_of(old).get("tokenRequests")
        unset = bool(asked) and asked != known and spec.get("serviceAccountTokenInSecrets") is None
        return [UNSET_SECRETS] if unset else []

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        audiences = [one.get("audience") or "" for one in spec.get("tokenRequests") or ()]
        return [
            name_of(obj),
            bool(spec.get("attachRequired", True)),
            bool(spec.get("podInfoOnMount")),
            bool(spec.get("storageCapacity")),
            ",".join(audiences) if audiences else UNSET,
            bool(spec.get("requiresRepublish")),
            ",".join(spec.get("volumeLifecycleModes") or ()) or "<none>",
            age(obj, now),
        ]


def _token_errors(requests: Sequence[Object]) -> list[FieldError]:
    errors: list[FieldError] = []
    audiences: set[str] = set()
    for index, request in enumerate(requests):
        where = SPEC.child("tokenRequests").index(index)
        audience, seconds = request.get("audience") or "", request.get("expirationSeconds")
        if audience in audiences:
            errors.append(field.duplicate(where.child("audience"), audience))
        audiences.add(audience)
        if seconds is None:
            continue
        at = where.child("expirationSeconds")
        if seconds < MIN_TOKEN:
            errors.append(field.invalid(at, seconds, "may not specify a duration less than 10 minutes"))
        if seconds > MAX_TOKEN:
            errors.append(field.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds"))
    return errors


class CSINodeStrategy(TableStrategy):
    """The drivers of a node; what a driver said of itself never changes, save how many volumes it takes."""

    allow_unconditional_update: ClassVar[bool] = False

    def validate(self, obj: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        seen: set[str] = set()
        for index, driver in enumerate(spec_of(obj).get("drivers") or ()):
            path = SPEC.child("drivers").index(index)
            name = driver.get("name") or ""
            errors += driver_name_errors(name, path.child("name"))
            errors += _node_id_errors(driver.get("nodeID") or "", path.child("nodeID"))
            count = (driver.get("allocatable") or {}).get("count")
            if count is not None and count < 0:
                errors.append(field.invalid(path.child("allocatable", "count"), count, NOT_NEGATIVE))
            errors += _topology_errors(driver.get("topologyKeys") or (), path)
            if name in seen:
                errors.append(field.duplicate(path.child("name"), name))
            seen.add(name)
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        known = {one.get("name"): one for one in spec_of(old).get("drivers") or ()}
        for driver in spec_of(new).get("drivers") or ():
            before = known.get(driver.get("name"))
            if before is None:
                continue
            rest = {key: value for key, value in driver.items() if key != "allocatable"}
            if rest != {key: value for key, value in before.items() if key != "allocatable"}:
                errors.append(field.immutable(SPEC.child("drivers"), internal_form("CSINodeDriver", rest)))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), len(spec_of(obj).get("drivers") or ()), age(obj, now)]


def _node_id_errors(value: str, path: Path) -> list[FieldError]:
    if not value:
        return [field.required(path, "")]
    if len(value) > 256:
        return [field.invalid(path, value, "must be 256 characters or less")]
    return []


def _topology_errors(keys: Sequence[str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, key in enumerate(keys):
        if not key:
            errors.append(field.required(path, ""))
        if key in keys[:index]:
            errors.append(field.duplicate(path, key))
        errors += validate_label_name(key, path)
    return errors


class CSIStorageCapacityStrategy(TableStrategy):
    """How much a driver has left of a class in a part of the cluster."""

    allow_unconditional_update: ClassVar[bool] = False

    def validate(self, obj: Object) -> list[FieldError]:
        name = obj.get("storageClassName") or ""
        errors = [field.invalid(Path("storageClassName"), name, one) for one in formats.dns1123_subdomain(name)]
        errors += validate_label_selector(obj.get("nodeTopology"), Path("nodeTopology"))
        capacity = obj.get("capacity")
        if capacity is not None and Quantity.parse(capacity) < Quantity.parse("0"):
            errors.append(field.invalid(Path("capacity"), str(Quantity.parse(capacity)), NOT_NEGATIVE))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        for name in ("nodeTopology", "storageClassName"):
            errors += validate_immutable(new.get(name), old.get(name), Path(name))
        return errors
