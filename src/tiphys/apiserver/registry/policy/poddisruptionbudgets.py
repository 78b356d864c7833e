"""PodDisruptionBudgets. https://kubernetes.io/docs/tasks/run-application/configure-pdb/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, NameRule, Object, age
from tiphys.apiserver.registry.validation.int_or_percent import int_or_percent_errors, not_more_than_all
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import validate_non_negative
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

SPEC: Final = Path("spec")
POLICIES: Final = ("AlwaysAllow", "IfHealthyBudget")
COUNTS: Final = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")


class PodDisruptionBudgetStrategy(StatusStrategy):
    """Either a minimum that stays or a maximum that goes."""

    name_rule: ClassVar[NameRule] = NameRule.PATH_SEGMENT
    strict_finalizers: ClassVar[bool] = False
    allow_unconditional_update: ClassVar[bool] = False
    initial_status: ClassVar[Mapping[str, Any]] = dict.fromkeys(COUNTS, 0)

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        low, high, policy = spec.get("minAvailable"), spec.get("maxUnavailable"), spec.get("unhealthyPodEvictionPolicy")
        errors: list[FieldError] = []
        if low is not None and high is not None:
            shown = internal_form("PodDisruptionBudgetSpec", spec)
            errors.append(field.invalid(SPEC, shown, "minAvailable and maxUnavailable cannot be both set"))
        for name, value in (("minAvailable", low), ("maxUnavailable", high)):
            if value is not None:
                errors += int_or_percent_errors(value, SPEC.child(name))
                errors += not_more_than_all(value, SPEC.child(name))
        errors += validate_label_selector(spec.get("selector"), SPEC.child("selector"))
        if policy is not None and policy not in POLICIES:
            errors.append(field.not_supported(SPEC.child("unhealthyPodEvictionPolicy"), policy, POLICIES))
        return errors

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        for name in COUNTS:
            errors += validate_non_negative(status_of(new).get(name) or 0, Path("status").child(name))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        low, high = spec.get("minAvailable"), spec.get("maxUnavailable")
        return [
            name_of(obj),
            "N/A" if low is None else str(low),
            "N/A" if high is None else str(high),
            status_of(obj).get("disruptionsAllowed") or 0,
            age(obj, now),
        ]
