"""StorageVersionMigrations: which resource is to be written anew; never changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

SPEC: Final = Path("spec")


class StorageVersionMigrationStrategy(StatusStrategy):
    """Rules of migrations."""

    status_alone: ClassVar[bool] = True

    def validate(self, obj: Object) -> list[FieldError]:
        resource = spec_of(obj).get("resource") or {}
        if not resource.get("resource"):
            return [field.required(SPEC.child("resource", "resource"), "resource is required")]
        return []

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return self.validate(new) + validate_immutable(spec_of(new), spec_of(old), SPEC)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        resource = spec_of(obj).get("resource") or {}
        parts = [resource.get("resource"), resource.get("version"), resource.get("group")]
        return [name_of(obj), ".".join(str(part) for part in parts if part), age(obj, now)]
