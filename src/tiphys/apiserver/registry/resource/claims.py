"""ResourceClaims and ResourceClaimTemplates.

https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.kinds import StatusStrategy, TableStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.resource.devices import devices_errors
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import validate_annotations, validate_labels
from tiphys.machinery import field
from tiphys.machinery.errors import invalid
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.meta import ObjectName

SPEC: Final = Path("spec")
ADMIN_LABEL: Final = "resource.kubernetes.io/admin-access"
ADMIN_DETAIL: Final = f"admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"


# Fields that count even when empty.
NULLABLE: Final = ("deletionGracePeriodSeconds", "ownerReferences", "finalizers", "managedFields")
# What the metadata of an object made from a template gets of its own, in the order of the API type.
OWN_METADATA: Final = (
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    *NULLABLE,
)


def default_claim_spec(spec: Object) -> None:
    """Defaults of the requests of a claim."""
    for request in (spec.get("devices") or {}).get("requests") or ():
        options = [request.get("exactly"), *(request.get("firstAvailable") or ())]
        for option in options:
            if option is not None:
                _default_request(option)


def _default_request(request: Object) -> None:
    if not request.get("allocationMode"):
        request["allocationMode"] = "ExactCount"
    if request["allocationMode"] == "ExactCount" and not request.get("count"):
        request["count"] = 1
    for toleration in request.get("tolerations") or ():
        if not toleration.get("operator"):
            toleration["operator"] = "Equal"


class ResourceClaimStrategy(StatusStrategy):
    """What a pod asks for never changes."""

    status_alone: ClassVar[bool] = True

    initial_status: ClassVar[Mapping[str, Any]] = {}

    def default(self, obj: Object) -> None:
        default_claim_spec(obj.setdefault("spec", {}))

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        errors = _admin_errors(obj, ctx)
        if errors:
            raise invalid(self.resource.group_kind, name_of(obj), errors)

    def validate(self, obj: Object) -> list[FieldError]:
        return devices_errors(spec_of(obj).get("devices") or {}, SPEC.child("devices"))

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return _spec_changed(new, old, "ResourceClaimSpec")

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), _state(obj), age(obj, now)]


def _admin_errors(claim: Object, ctx: RequestContext) -> list[FieldError]:
    """Access to devices that others use is for namespaces of administrators."""
    requests = (spec_of(claim).get("devices") or {}).get("requests") or ()
    where = SPEC.child("devices", "requests")
    asked = [index for index, one in enumerate(requests) if (one.get("exactly") or {}).get("adminAccess")]
    namespace = ctx.reader.get("", "namespaces", ObjectName("", ctx.namespace)) if asked else None
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    if not asked or labels.get(ADMIN_LABEL) == "true":
        return []
    return [field.forbidden(where.index(index).child("adminAccess"), ADMIN_DETAIL) for index in asked]


def _state(claim: Object) -> str:
    """`pending`, or everything that has happened: `allocated,reserved`."""
    status = status_of(claim)
    states: list[str] = []
    if claim["metadata"].get("deletionTimestamp"):
        states.append("deleted")
    if status.get("allocation") is None:
        if not claim["metadata"].get("deletionTimestamp"):
            states.append("pending")
    else:
        states.append("allocated")
        if status.get("reservedFor"):
            states.append("reserved")
    return ",".join(states)


def _spec_changed(new: Object, old: Object, kind: str) -> list[FieldError]:
    """The error of a spec that is not what it was. `kind`: its type, as messages print it."""
    if spec_of(new) == spec_of(old):
        return []
    return [field.immutable(SPEC, internal_form(kind, spec_of(new)))]


def _not_for_templates(metadata: Object) -> list[str]:
    """What a template's metadata says beyond labels and annotations; an empty list counts, an empty text does not."""
    given = [
        name for name in OWN_METADATA if metadata.get(name) or (name in NULLABLE and metadata.get(name) is not None)
    ]
    return ["uID" if name == "uid" else name for name in given]


class ResourceClaimTemplateStrategy(TableStrategy):
    """A claim yet to be made; never changes."""

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        errors = _admin_errors(spec_of(obj), ctx)
        if errors:
            raise invalid(self.resource.group_kind, name_of(obj), errors)

    def default(self, obj: Object) -> None:
        template = obj.setdefault("spec", {})
        default_claim_spec(template.setdefault("spec", {}))

    def validate(self, obj: Object) -> list[FieldError]:
        template = spec_of(obj)
        metadata = template.get("metadata") or {}
        where = SPEC.child("metadata")
        errors = validate_annotations(metadata.get("annotations") or {}, where.child("annotations"))
        errors += validate_labels(metadata.get("labels") or {}, where.child("labels"))
        errors += [field.forbidden(where.child(shown), "cannot be set") for shown in _not_for_templates(metadata)]
        devices = (template.get("spec") or {}).get("devices") or {}
        return errors + devices_errors(devices, SPEC.child("spec", "devices"))

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return self.validate(new) + _spec_changed(new, old, "ResourceClaimTemplateSpec")

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), age(obj, now)]
