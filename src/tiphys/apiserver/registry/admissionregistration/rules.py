"""What webhooks and policies share: rules, match conditions, defaults of their selectors.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

OPERATIONS: Final = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
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
    errors: list[FieldError] = []
    if not resources:
        errors.append(field.required(path, ""))
    if "*/*" in resources and len(resources) > 1:
        detail = "if '*/*' is present, must not specify other resources"
        return [*errors, field.invalid(path, resources, detail)]
    if "*" in resources and any("/" not in one and one != "*" for one in resources):
        detail = "if '*' is present, must not specify other resources without subresources"
        errors.append(field.invalid(path, resources, detail))
    every_subresource = {one.removesuffix("/*") for one in resources if one.endswith("/*")}
    every_resource = {one.removeprefix("*/") for one in resources if one.startswith("*/")}
    for index, one in enumerate(resources):
        if not one:
            errors.append(field.required(path.index(index), ""))
            continue
        resource, slash, subresource = one.partition("/")
        if not slash:
            continue
        if resource in every_subresource and subresource != "*":
            detail = f"if '{resource}/*' is present, must not specify {one}"
            errors.append(field.invalid(path.index(index), one, detail))
        if subresource in every_resource and resource != "*":
            detail = f"if '*/{subresource}' is present, must not specify {one}"
            errors.append(field.invalid(path.index(index), one, detail))
    return errors


def match_condition_errors(conditions: Sequence[Json], path: Path) -> list[FieldError]:
    """Named expressions; that they compile is judged with the expressions."""
    errors: list[FieldError] = []
    if len(conditions) > MAX_CONDITIONS:
        errors.append(field.too_many(path, len(conditions), MAX_CONDITIONS))
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        where = path.index(index)
        name = condition.get("name") or ""
        if not (condition.get("expression") or "").strip():
            errors.append(field.required(where.child("expression"), ""))
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
