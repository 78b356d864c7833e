"""Leases. https://kubernetes.io/docs/concepts/architecture/leases/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.validation.meta import validate_label_name, validate_non_negative
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

SPEC: Final = Path("spec")
STRATEGIES: Final = ("OldestEmulationVersion",)


class LeaseStrategy(TableStrategy):
    """Durations are positive, transitions are counted up."""

    allow_create_on_update: ClassVar[bool] = True
    allow_unconditional_update: ClassVar[bool] = False

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors: list[FieldError] = []
        duration = spec.get("leaseDurationSeconds")
        if duration is not None and duration <= 0:
            errors.append(field.invalid(SPEC.child("leaseDurationSeconds"), duration, "must be greater than 0"))
        errors += validate_non_negative(spec.get("leaseTransitions") or 0, SPEC.child("leaseTransitions"))
        strategy = spec.get("strategy")
        if strategy:
            if "/" in strategy:
                errors += validate_label_name(strategy, SPEC.child("strategy"))
            elif strategy not in STRATEGIES:
                errors.append(field.not_supported(SPEC.child("strategy"), strategy, STRATEGIES))
        if spec.get("preferredHolder") and not strategy:
            detail = "can only be specified when `strategy` is defined"
            errors.append(field.forbidden(SPEC.child("preferredHolder"), detail))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), spec_of(obj).get("holderIdentity") or "", age(obj, now)]
