"""Leases. https://kubernetes.io/docs/concepts/architecture/leases/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.validation.meta import validate_non_negative
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

SPEC: Final = Path("spec")


class LeaseStrategy(TableStrategy):
    """Durations are positive, transitions are counted up."""

    allow_create_on_update: ClassVar[bool] = True
    allow_unconditional_update: ClassVar[bool] = False

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        _drop_coordination(obj.get("spec") or {})

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        _drop_coordination(new.get("spec") or {})

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors: list[FieldError] = []
        duration = spec.get("leaseDurationSeconds")
        if duration is not None and duration <= 0:
            errors.append(field.invalid(SPEC.child("leaseDurationSeconds"), duration, "must be greater than 0"))
        errors += validate_non_negative(spec.get("leaseTransitions") or 0, SPEC.child("leaseTransitions"))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), spec_of(obj).get("holderIdentity") or "", age(obj, now)]


def _drop_coordination(spec: Object) -> None:
    """Coordinated leader election is behind a feature gate that is off."""
    spec.pop("strategy", None)
    spec.pop("preferredHolder", None)
