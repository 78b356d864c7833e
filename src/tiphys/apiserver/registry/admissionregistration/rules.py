"""What webhooks and policies share: rules, match conditions, defaults of their selectors.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

OPERATIONS: Final = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
MUTABLE_OPERATIONS: Final = ("*", "CONNECT", "CREATE", "UPDATE")
SCOPES: Final = ("*", "Cluster", "Namespaced")
FAILURE_POLICIES: Final = ("Fail", "Ignore")
MATCH_POLICIES: Final = ("Equivalent", "Exact")
MAX_CONDITIONS: Final = 64


def default_match_resources(resources: Object | None) -> None:
    """Defaults of matchConstraints and matchResources."""
    if resources is None:
        return
    if resources.get("matchPolicy") is None:
        resources["matchPolicy"] = "Equivalent"
    for name in ("namespaceSelector", "objectSelector"):
        if resources.get(name) is None:
            resources[name] = {}
    for name in ("resourceRules", "excludeResourceRules"):
        for rule in resources.get(name) or ():
            if rule.get("scope") is None:
                rule["scope"] = "*"


def rule_errors(rule: Json, path: Path) -> list[FieldError]:
    """Operations, groups, versions and resources of one rule."""
    operations = list(rule.get("operations") or ())
    where = path.child("operations")
    errors: list[FieldError] = []
    if not operations:
        errors.append(field.required(where, ""))
    if len(operations) > 1 and "*" in operations:
        detail = "if '*' is present, must not specify other operations"
        errors.append(field.invalid(where, operations, detail))
    for index, operation in enumerate(operations):
        if operation not in OPERATIONS:
            errors.append(field.not_supported(where.index(index), operation, OPERATIONS))
    errors += _list_errors(rule, "apiGroups", "API groups", path, allow_empty=True)
    errors += _list_errors(rule, "apiVersions", "API versions", path, allow_empty=False)
    errors += _resources_errors(list(rule.get("resources") or ()), path.child("resources"))
    names, where = rule.get("resourceNames") or (), path.child("resourceNames")
    for index, name in enumerate(names):
        errors += [field.invalid(where.index(index), name, message) for message in formats.path_segment(name) if name]
        if name in names[:index]:
            errors.append(field.duplicate(where.index(index), name))
    scope = rule.get("scope")
    if scope is not None and scope not in SCOPES:
        errors.append(field.not_supported(path.child("scope"), scope, SCOPES))
    return errors


def _list_errors(rule: Json, name: str, words: str, path: Path, *, allow_empty: bool) -> list[FieldError]:
    values = list(rule.get(name) or ())
    where = path.child(name)
    errors: list[FieldError] = []
    if not values:
        errors.append(field.required(where, ""))
    if len(values) > 1 and "*" in values:
        detail = f"if '*' is present, must not specify other {words}"
        errors.append(field.invalid(where, values, detail))
    if not allow_empty:
        errors += [field.required(where.index(index), "") for index, value in enumerate(values) if not value]
    return errors


def _resources_errors(resources: list[str], path: Path) -> list[FieldError]:
    """A resource may not follow a wildcard that covers it; before the wildcard it may stand."""
    errors: list[FieldError] = []
    if not resources:
        errors.append(field.required(path, ""))
    every_subresource: set[str] = set()
    every_resource: set[str] = set()
    plain_last = False
    for index, one in enumerate(resources):
        resource, slash, subresource = one.partition("/")
        if not one:
            errors.append(field.required(path.index(index), ""))
        elif not slash:
            plain_last = one != "*"
        if not slash:
            continue
        if resource in every_subresource:
            detail = f"if '{resource}/*' is present, must not specify {one}"
            errors.append(field.invalid(path.index(index), one, detail))
        if subresource in every_resource:
            detail = f"if '*/{subresource}' is present, must not specify {one}"
            errors.append(field.invalid(path.index(index), one, detail))
        if subresource == "*":
            every_subresource.add(resource)
        if resource == "*":
            every_resource.add(subresource)
    if "*/*" in resources and len(resources) > 1:
        detail = "if '*/*' is present, must not specify other resources"
        errors.append(field.invalid(path, resources, detail))
    if "*" in resources and plain_last:
        detail = "if '*' is present, must not specify other resources without subresources"
        errors.append(field.invalid(path, resources, detail))
    return errors


def match_condition_errors(
    conditions: Sequence[Json], path: Path, check: Callable[[str, Path], list[FieldError]]
) -> list[FieldError]:
    """Named expressions; `check` tells what is wrong with an expression at a place."""
    errors: list[FieldError] = []
    if len(conditions) > MAX_CONDITIONS:
        errors.append(field.too_many(path, len(conditions), MAX_CONDITIONS))
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        where = path.index(index)
        name = condition.get("name") or ""
        expression = condition.get("expression") or ""
        if not expression.strip():
            errors.append(field.required(where.child("expression"), ""))
        else:
            errors += check(expression, where.child("expression"))
        if not name:
            errors.append(field.required(where.child("name"), ""))
            continue
        errors += validate_label_name(name, where.child("name"))
        if name in seen:
            errors.append(field.duplicate(where.child("name"), name))
        seen.add(name)
    return errors


def match_resources_errors(resources: Json, path: Path) -> list[FieldError]:
    """Errors of matchConstraints (whose rules are required) and matchResources."""
    errors: list[FieldError] = []
    policy = resources.get("matchPolicy")
    if policy is None:
        errors.append(field.required(path.child("matchPolicy"), ""))
    elif policy not in MATCH_POLICIES:
        errors.append(field.not_supported(path.child("matchPolicy"), policy, MATCH_POLICIES))
    for name in ("namespaceSelector", "objectSelector"):
        if resources.get(name) is None:
            errors.append(field.required(path.child(name), ""))
        else:
            errors += validate_label_selector(resources[name], path.child(name))
    for name in ("resourceRules", "excludeResourceRules"):
        for index, rule in enumerate(resources.get(name) or ()):
            errors += rule_errors(rule, path.child(name).index(index))
    return errors


def mutable_operation_errors(resources: Json, path: Path) -> list[FieldError]:
    """Operations of the rules at `path` whose objects cannot be changed."""
    where = path.child("resourceRules", "operations")
    asked = [one for rule in resources.get("resourceRules") or () for one in rule.get("operations") or ()]
    return [field.not_supported(where, one, MUTABLE_OPERATIONS) for one in asked if one not in MUTABLE_OPERATIONS]
