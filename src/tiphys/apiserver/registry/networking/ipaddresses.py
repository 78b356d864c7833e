"""IPAddresses: the addresses services have. Their names are the addresses, in canonical form."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, NameRule, Object, age
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import IMMUTABLE, name_errors
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

PARENT: Final = Path("spec").child("parentRef")


class IPAddressStrategy(TableStrategy):
    """Rules of IP addresses."""

    name_rule: ClassVar[NameRule] = NameRule.ANY

    def validate(self, obj: Object) -> list[FieldError]:
        errors = name_errors(obj["metadata"], formats.canonical_ip)
        parent = spec_of(obj).get("parentRef")
        if parent is None:
            errors.append(field.required(PARENT, ""))
            return errors
        if group := parent.get("group"):
            errors += [field.invalid(PARENT.child("group"), group, one) for one in formats.dns1123_subdomain(group)]
        for name in ("resource", "name"):
            value = parent.get(name) or ""
            if not value:
                errors.append(field.required(PARENT.child(name), ""))
            else:
                errors += [field.invalid(PARENT.child(name), value, one) for one in formats.path_segment(value)]
        if namespace := parent.get("namespace"):
            where = PARENT.child("namespace")
            errors += [field.invalid(where, namespace, one) for one in formats.path_segment(namespace)]
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        parent = spec_of(new).get("parentRef")
        if parent == spec_of(old).get("parentRef"):
            return []
        value = None if parent is None else internal_form("ParentReference", parent)
        return [field.invalid(PARENT, value, IMMUTABLE)]

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [
            name_of(obj),
            _parent_text(spec_of(obj).get("parentRef")),
            age(obj, now),
        ]  # one more than columns, as upstream


def _parent_text(parent: Object | None) -> str:
    """`services/kube-system/kube-dns`."""
    if parent is None:
        return "<none>"
    resource = parent.get("resource") or ""
    if parent.get("group"):
        resource = f"{resource}.{parent['group']}"
    parts = [resource, parent.get("namespace") or "", parent.get("name") or ""]
    return "/".join(part for part in parts if part)
