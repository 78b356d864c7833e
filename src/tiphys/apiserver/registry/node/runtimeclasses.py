"""RuntimeClasses. https://kubernetes.io/docs/concepts/containers/runtime-class/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.validation.meta import validate_immutable, validate_labels
from tiphys.apiserver.registry.validation.pod_resources import validate_overhead
from tiphys.apiserver.registry.validation.pod_warnings import DEPRECATED_NODE_LABELS
from tiphys.apiserver.registry.validation.scheduling import validate_tolerations
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

HANDLER: Final = Path("handler")


class RuntimeClassStrategy(TableStrategy):
    """The handler never changes."""

    allow_create_on_update: ClassVar[bool] = True
    allow_unconditional_update: ClassVar[bool] = False

    def validate(self, obj: Object) -> list[FieldError]:
        handler = obj.get("handler") or ""
        errors = [field.invalid(HANDLER, handler, message) for message in formats.dns1123_label(handler)]
        overhead = (obj.get("overhead") or {}).get("podFixed")
        errors += validate_overhead(overhead, Path("overhead").child("podFixed"))
        scheduling = obj.get("scheduling") or {}
        where = Path("scheduling")
        errors += validate_labels(scheduling.get("nodeSelector") or {}, where.child("nodeSelector"))
        return errors + validate_tolerations(scheduling.get("tolerations") or (), where.child("tolerations"))

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return validate_immutable(new.get("handler") or "", old.get("handler") or "", HANDLER)

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        selector = (obj.get("scheduling") or {}).get("nodeSelector") or {}
        found = sorted(key for key in selector if key in DEPRECATED_NODE_LABELS)
        return [f"scheduling.nodeSelector: {DEPRECATED_NODE_LABELS[key]}" for key in found]

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), obj.get("handler") or "", age(obj, now)]
