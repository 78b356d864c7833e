"""Roles and ClusterRoles."""

from __future__ import annotations

from typing import ClassVar

from tiphys.apiserver.registry.kinds import TableStrategy
from tiphys.apiserver.registry.rbac.rules import rule_errors
from tiphys.apiserver.registry.strategy import NameRule, Object
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path


class RoleStrategy(TableStrategy):
    """A role of one namespace."""

    name_rule: ClassVar[NameRule] = NameRule.PATH_SEGMENT
    allow_create_on_update: ClassVar[bool] = True

    def default(self, obj: Object) -> None:
        """`rules` is always written."""
        obj.setdefault("rules", None)

    def validate(self, obj: Object) -> list[FieldError]:
        return rule_errors(obj.get("rules") or (), True)


class ClusterRoleStrategy(TableStrategy):
    """A role of the cluster; it may gather the rules of others."""

    name_rule: ClassVar[NameRule] = NameRule.PATH_SEGMENT
    allow_create_on_update: ClassVar[bool] = True

    def default(self, obj: Object) -> None:
        """`rules` is always written."""
        obj.setdefault("rules", None)

    def validate(self, obj: Object) -> list[FieldError]:
        errors = rule_errors(obj.get("rules") or (), False)
        aggregation = obj.get("aggregationRule")
        if aggregation is None:
            return errors
        path = Path("aggregationRule").child("clusterRoleSelectors")
        selectors = aggregation.get("clusterRoleSelectors") or ()
        if not selectors:
            errors.append(
                field.required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil")
            )
        for index, selector in enumerate(selectors):
            found = validate_label_selector(selector, path.index(index))
            errors += found
            if found:
                errors.append(field.invalid(path.index(index), None, "invalid label selector."))
        return errors
