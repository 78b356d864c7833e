"""LeaseCandidates: who would hold a lease. https://kubernetes.io/docs/concepts/cluster-administration/coordinated-leader-election/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

SPEC: Final = Path("spec")


class LeaseCandidateStrategy(TableStrategy):
    """Rules of candidates."""

    allow_create_on_update: ClassVar[bool] = True
    allow_unconditional_update: ClassVar[bool] = False

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors: list[FieldError] = []
        errors.extend(
            field.required(SPEC.child(name), "")
            for name in ("leaseName", "binaryVersion", "strategy")
            if not spec.get(name)
        )
        return errors

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return super().selectable_fields(obj) | {"spec.leaseName": spec_of(obj).get("leaseName") or ""}

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        names = ("leaseName", "binaryVersion", "emulationVersion", "strategy")
        return [name_of(obj), *(spec.get(name) or "" for name in names), age(obj, now)]
