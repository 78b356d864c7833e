"""Namespaces: a label with their name, and finalizers of their own that hold them until they are empty.

https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, NameRule, Object, RequestContext, age
from tiphys.apiserver.registry.validation.meta import validate_finalizer_name
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

NAME_LABEL: Final = "kubernetes.io/metadata.name"
OWN_FINALIZER: Final = "kubernetes"
FINALIZERS: Final = Path("spec").child("finalizers")


class NamespaceStrategy(TableStrategy):
    """Rules of namespaces."""

    name_rule: ClassVar[NameRule] = NameRule.DNS_LABEL

    def default(self, obj: Object) -> None:
        _label(obj)

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        obj["status"] = {"phase": "Active"}
        finalizers = list((obj.get("spec") or {}).get("finalizers") or ())
        if OWN_FINALIZER not in finalizers:
            finalizers.append(OWN_FINALIZER)
        obj["spec"] = {**(obj.get("spec") or {}), "finalizers": finalizers}
        _label(obj)

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """Finalizers and status have subresources of their own."""
        new["spec"] = old.get("spec") or {}
        new["status"] = old.get("status") or {}
        _label(new)

    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_status_update(ctx, new, old)
        _label(new)

    def validate(self, obj: Object) -> list[FieldError]:
        return self._finalizer_errors(obj)

    def _finalizer_errors(self, obj: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        for index, name in enumerate(spec_of(obj).get("finalizers") or ()):
            errors += validate_finalizer_name(name, FINALIZERS.index(index))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return []

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        phase = status_of(new).get("phase") or ""
        where = Path("status").child("Phase")
        if not new["metadata"].get("deletionTimestamp"):
            if phase != "Active":
                detail = "may only be 'Active' if `deletionTimestamp` is empty"
                return [field.invalid(where, phase, detail)]
        elif phase != "Terminating":
            detail = "may only be 'Terminating' if `deletionTimestamp` is not empty"
            return [field.invalid(where, phase, detail)]
        return []

    def prepare_for_subresource_update(self, subresource: str, ctx: RequestContext, new: Object, old: Object) -> None:
        """finalize: nothing but the finalizers changes."""
        new["status"] = old.get("status") or {}
        _label(new)

    def validate_subresource_update(self, subresource: str, new: Object, old: Object) -> list[FieldError]:
        return self._finalizer_errors(new)

    def prepare_for_deletion(self, ctx: RequestContext, obj: Object) -> None:
        obj["status"] = {**status_of(obj), "phase": "Terminating"}

    def holds_deletion(self, obj: Object) -> bool:
        return bool(spec_of(obj).get("finalizers"))

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        phase = status_of(obj).get("phase") or ""
        return super().selectable_fields(obj) | {"status.phase": phase}

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), status_of(obj).get("phase") or "", age(obj, now)]


def _label(obj: Object) -> None:
    """Every namespace can be selected by its name."""
    metadata = obj.get("metadata") or {}
    if metadata.get("name"):
        metadata["labels"] = {**(metadata.get("labels") or {}), NAME_LABEL: metadata["name"]}
