"""RoleBindings and ClusterRoleBindings: the role they give never changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.rbac.rules import binding_errors, default_binding
from tiphys.apiserver.registry.strategy import Cell, NameRule, Object, age
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path


class RoleBindingStrategy(TableStrategy):
    """A binding in one namespace, to a role there or to a cluster role."""

    name_rule: ClassVar[NameRule] = NameRule.PATH_SEGMENT
    allow_create_on_update: ClassVar[bool] = True
    role_kinds: ClassVar[Sequence[str]] = ("Role", "ClusterRole")

    def default(self, obj: Object) -> None:
        default_binding(obj)

    def validate(self, obj: Object) -> list[FieldError]:
        return binding_errors(obj, self.role_kinds, self.resource.namespaced)

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        if (new.get("roleRef") or {}) != (old.get("roleRef") or {}):
            value = internal_form("RoleRef", new.get("roleRef") or {})
            errors.append(field.invalid(Path("roleRef"), value, "cannot change roleRef"))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        reference = obj.get("roleRef") or {}
        users, groups, accounts = _subjects(obj)
        role = f"{reference.get('kind')}/{reference.get('name')}"
        return [name_of(obj), role, age(obj, now), users, groups, accounts]


class ClusterRoleBindingStrategy(RoleBindingStrategy):
    """A binding for the whole cluster."""

    role_kinds: ClassVar[Sequence[str]] = ("ClusterRole",)


def _subjects(binding: Object) -> tuple[str, str, str]:
    """Users, groups and service accounts, each as `a, b`."""
    users, groups, accounts = [], [], []
    for subject in binding.get("subjects") or ():
        name = subject.get("name") or ""
        match subject.get("kind"):
            case "User":
                users.append(name)
            case "Group":
                groups.append(name)
            case "ServiceAccount":
                accounts.append(f"{subject.get('namespace') or ''}/{name}")
    return ", ".join(users), ", ".join(groups), ", ".join(accounts)
