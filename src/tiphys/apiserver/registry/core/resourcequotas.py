"""ResourceQuotas. https://kubernetes.io/docs/concepts/policy/resource-quotas/"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.apiserver.registry.validation.resources import (
    is_quota_resource,
    validate_quantity,
    validate_quota_resource_name,
)
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

SPEC: Final = Path("spec")
# The scopes, and which resources each makes sense for (None: any pod resource).
BEST_EFFORT_RESOURCES: Final = frozenset({"pods"})
POD_RESOURCES: Final = frozenset(
    {
        "pods",
        "cpu",
        "memory",
        "requests.cpu",
        "requests.memory",
        "limits.cpu",
        "limits.memory",
        "ephemeral-storage",
        "requests.ephemeral-storage",
        "limits.ephemeral-storage",
    }
)
SCOPES: Final = (
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
)
EXISTS_ONLY: Final = ("Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "CrossNamespacePodAffinity")
CONFLICTS: Final = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))
EXISTS_DETAIL: Final = (
    "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
    "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)


class ResourceQuotaStrategy(StatusStrategy):
    """Hard limits by resource, for the objects in some scopes; the scopes never change."""

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = _hard_errors(spec.get("hard") or {}, SPEC.child("hard"))
        errors += _scope_errors(spec)
        return errors + _selector_errors(spec)

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        scopes, known = sorted(spec_of(new).get("scopes") or ()), sorted(spec_of(old).get("scopes") or ())
        return errors + validate_immutable(scopes or None, known or None, SPEC.child("scopes"))

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        status = status_of(new)
        errors: list[FieldError] = []
        for kind in ("hard", "used"):
            errors += _hard_errors(status.get(kind) or {}, Path("status").child(kind))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        status = status_of(obj)
        hard, used = status.get("hard") or {}, status.get("used") or {}
        requests: list[str] = []
        limits: list[str] = []
        for name in sorted(hard):
            text = f"{name}: {used.get(name, '0')}/{hard[name]}"
            (limits if name.startswith("limits") else requests).append(text)
        return [name_of(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


def _hard_errors(hard: Mapping[str, str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in sorted(hard):
        where = path.key(name)
        errors += validate_quota_resource_name(name, where)
        errors += validate_quantity(name, hard[name], where)
    return errors


def _scope_fits(scope: str, resource: str) -> bool:
    if scope == "BestEffort":
        return resource in BEST_EFFORT_RESOURCES
    if scope in ("Terminating", "NotTerminating", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity"):
        return resource in POD_RESOURCES
    return True


def _set_errors(scopes: list[str], hard: Collection[str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for scope in scopes:
        if scope not in SCOPES:
            errors.append(field.invalid(path, scopes, "unsupported scope"))
        errors.extend(
            field.invalid(path, scopes, "unsupported scope applied to resource")
            for resource in sorted(hard)
            if scope in SCOPES and is_quota_resource(resource) and not _scope_fits(scope, resource)
        )
    errors.extend(field.invalid(path, scopes, "conflicting scopes") for pair in CONFLICTS if set(pair) <= set(scopes))
    return errors


def _scope_errors(spec: Object) -> list[FieldError]:
    scopes = list(spec.get("scopes") or ())
    return _set_errors(scopes, spec.get("hard") or {}, SPEC.child("scopes")) if scopes else []


def _selector_errors(spec: Object) -> list[FieldError]:
    selector = spec.get("scopeSelector")
    if selector is None:
        return []
    path = SPEC.child("scopeSelector", "matchExpressions")
    errors: list[FieldError] = []
    for expression in selector.get("matchExpressions") or ():
        scope, operator = expression.get("scopeName") or "", expression.get("operator") or ""
        values = expression.get("values") or ()
        if scope not in SCOPES:
            errors.append(field.invalid(path.child("scopeName"), scope, "unsupported scope"))
        errors.extend(
            field.invalid(path, internal_form("ScopeSelector", selector), "unsupported scope applied to resource")
            for resource in sorted(spec.get("hard") or ())
            if scope in SCOPES and is_quota_resource(resource) and not _scope_fits(scope, resource)
        )
        if scope in EXISTS_ONLY and operator != "Exists":
            errors.append(field.invalid(path.child("operator"), operator, EXISTS_DETAIL))
        errors += _operator_errors(operator, values, path)
    return errors


def _operator_errors(operator: str, values: Sequence[str], path: Path) -> list[FieldError]:
    if operator in ("In", "NotIn"):
        if not values:
            detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            return [field.required(path.child("values"), detail)]
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
            return [field.invalid(path.child("values"), list(values), detail)]
    else:
        return [field.invalid(path.child("operator"), operator, "not a valid selector operator")]
    return []
