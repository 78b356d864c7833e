"""ControllerRevisions: immutable snapshots of templates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import NONE
from tiphys.apiserver.registry.validation.meta import validate_immutable, validate_non_negative
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path


class ControllerRevisionStrategy(TableStrategy):
    """Data is required and never changes."""

    def validate(self, obj: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        if obj.get("data") is None:
            errors.append(field.required(Path("data"), "data is mandatory"))
        return errors + validate_non_negative(obj.get("revision") or 0, Path("revision"))

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return self.validate(new) + validate_immutable(new.get("data"), old.get("data"), Path("data"))

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        owner = next((one for one in obj["metadata"].get("ownerReferences") or () if one.get("controller")), None)
        return [name_of(obj), _owner_text(owner), obj.get("revision") or 0, age(obj, now)]


def _owner_text(owner: Object | None) -> str:
    """`deployment.apps/name`."""
    if owner is None:
        return NONE
    group = owner.get("apiVersion", "").rpartition("/")[0]
    kind = owner.get("kind", "").lower()
    return f"{kind}.{group}/{owner.get('name')}" if group else f"{kind}/{owner.get('name')}"
