"""PriorityClasses. https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

# The highest priority a user may define; above are the system's own.
HIGHEST_USER: Final = 1000000000
SYSTEM_CLASSES: Final = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}
POLICIES: Final = ("PreemptLowerPriority", "Never")


class PriorityClassStrategy(TableStrategy):
    """Value and policy never change; names of the system are its own."""

    def spec_changed(self, new: Object, old: Object) -> bool:
        """What counts never changes."""
        return False

    def default(self, obj: Object) -> None:
        if obj.get("preemptionPolicy") is None:
            obj["preemptionPolicy"] = "PreemptLowerPriority"

    def validate(self, obj: Object) -> list[FieldError]:
        name, value = name_of(obj), obj.get("value") or 0
        errors: list[FieldError] = []
        if name.startswith("system-"):
            known = SYSTEM_CLASSES.get(name)
            problem = ""
            if known is None:
                problem = f"{name} is not a known system priority class"
            elif value != known:
                problem = f"value of {name} PriorityClass must be {known}"
            if problem:
                detail = (
                    f"priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                )
                errors.append(field.forbidden(Path("metadata").child("name"), detail))
        elif value > HIGHEST_USER:
            detail = f"maximum allowed value of a user defined priority is {HIGHEST_USER}"
            errors.append(field.forbidden(Path("value"), detail))
        policy = obj.get("preemptionPolicy")
        if policy is not None and policy not in POLICIES:
            errors.append(field.not_supported(Path("preemptionPolicy"), policy, POLICIES))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        if (new.get("value") or 0) != (old.get("value") or 0):
            errors.append(field.forbidden(Path("value"), "may not be changed in an update."))
        where = Path("preemptionPolicy")
        return errors + validate_immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), where)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [
            name_of(obj),
            obj.get("value") or 0,
            bool(obj.get("globalDefault")),
            age(obj, now),
            obj.get("preemptionPolicy") or "",
        ]
