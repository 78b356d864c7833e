"""Resource names and quantities: of containers, pods, quotas and limit ranges.

https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tiphys.apiserver.registry.validation.meta import NOT_NEGATIVE
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

HUGEPAGES: Final = "hugepages-"
ZERO: Final = Quantity.parse("0")

CONTAINER_RESOURCES: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
OBJECT_COUNTS: Final = frozenset(
    {
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    }
)
COMPUTE_QUOTA: Final = frozenset(
    {
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
    }
)
QUOTA_RESOURCES: Final = OBJECT_COUNTS | COMPUTE_QUOTA
STANDARD_RESOURCES: Final = QUOTA_RESOURCES | {"storage"}

NameRule = Callable[[str, Path], list[FieldError]]


def is_hugepages(name: str) -> bool:
    return name.startswith(HUGEPAGES)


def is_native(name: str) -> bool:
    """Whether a name belongs to Kubernetes itself: without a domain, or in kubernetes.io."""
    return "/" not in name or "kubernetes.io/" in name


def is_extended(name: str) -> bool:
    """Whether a name is an extended resource: in a domain of its own and usable as `requests.<name>`."""
    if is_native(name) or name.startswith("requests."):
        return False
    return not formats.qualified_name("requests." + name)


def is_integer(name: str) -> bool:
    """Whether only whole units of a resource can be had."""
    return name in OBJECT_COUNTS or is_extended(name)


def overcommit_allowed(name: str) -> bool:
    return is_native(name) and not is_hugepages(name)


def _standard(name: str) -> bool:
    return (
        name in STANDARD_RESOURCES
        or is_hugepages(name)
        or name.startswith(("requests." + HUGEPAGES, "limits." + HUGEPAGES))
    )


def validate_resource_name(name: str, path: Path) -> list[FieldError]:
    """A qualified name; without a domain it must be one of the standard resources."""
    errors = [field.invalid(path, name, message) for message in formats.qualified_name(name)]
    if not errors and "/" not in name and not _standard(name):
        errors.append(field.invalid(path, name, "must be a standard resource type or fully qualified"))
    return errors


def validate_container_resource_name(name: str, path: Path) -> list[FieldError]:
    if name in CONTAINER_RESOURCES:
        return []
    errors = validate_resource_name(name, path)
    if "/" not in name:
        if not is_hugepages(name):
            errors.append(field.invalid(path, name, "must be a standard resource for containers"))
    elif not is_native(name) and not is_extended(name):
        errors.append(field.invalid(path, name, "doesn't follow extended resource name standard"))
    return errors


def is_quota_resource(name: str) -> bool:
    """Whether quotas know a resource by name."""
    return name in QUOTA_RESOURCES or name.startswith(("requests." + HUGEPAGES, HUGEPAGES))


def validate_quota_resource_name(name: str, path: Path) -> list[FieldError]:
    errors = validate_resource_name(name, path)
    if "/" not in name and not is_quota_resource(name):
        errors.append(field.invalid(path, name, "must be a standard resource for quota"))
    return errors


def validate_pod_resource_name(name: str, path: Path) -> list[FieldError]:
    """Pod-level resources: cpu, memory and huge pages."""
    if name in ("cpu", "memory") or is_hugepages(name):
        return []
    return validate_resource_name(name, path) or [field.not_supported(path, name, ["cpu", HUGEPAGES, "memory"])]


def validate_quantity(name: str, text: str, path: Path) -> list[FieldError]:
    """Not negative, and whole where only whole units exist."""
    quantity = Quantity.parse(text)
    if quantity < ZERO:
        return [field.invalid(path, str(quantity), NOT_NEGATIVE)]
    if is_integer(name) and quantity.milli_value() % 1000:
        return [field.invalid(path, str(quantity), "must be an integer")]
    return []


def validate_requirements(
    resources: Mapping[str, Any] | None,
    claim_names: Collection[str],
    path: Path,
    name_rule: NameRule = validate_container_resource_name,
) -> list[FieldError]:
    """Errors of the `resources` of a container (or of a pod, with its own rule for names)."""
    if not resources:
        return []
    limits: Mapping[str, str] = resources.get("limits") or {}
    requests: Mapping[str, str] = resources.get("requests") or {}
    errors: list[FieldError] = []
    for name in sorted(limits):
        where = path.child("limits").key(name)
        errors += name_rule(name, where) + validate_quantity(name, limits[name], where)
    for name in sorted(requests):
        errors += _request_errors(name, requests[name], limits.get(name), path, name_rule)
    named = {*limits, *requests}
    if any(is_hugepages(name) for name in named) and not named & {"cpu", "memory"}:
        errors.append(field.forbidden(path, "HugePages require cpu or memory"))
    return errors + _claim_errors(resources.get("claims") or (), claim_names, path.child("claims"))


def _request_errors(name: str, text: str, limit: str | None, path: Path, name_rule: NameRule) -> list[FieldError]:
    where = path.child("requests")
    errors = name_rule(name, where.key(name)) + validate_quantity(name, text, where.key(name))
    if limit is None:
        if not overcommit_allowed(name):
            errors.append(field.required(path.child("limits"), "Limit must be set for non overcommitable resources"))
        return errors
    requested, limited = Quantity.parse(text), Quantity.parse(limit)
    if requested != limited and not overcommit_allowed(name):
        errors.append(field.invalid(where, str(requested), f"must be equal to {name} limit of {limited}"))
    elif requested > limited:
        errors.append(field.invalid(where, str(requested), f"must be less than or equal to {name} limit of {limited}"))
    return errors


def _claim_errors(claims: Sequence[Mapping[str, Any]], known: Collection[str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[tuple[str, str]] = set()
    for index, claim in enumerate(claims):
        name, request = claim.get("name", ""), claim.get("request", "")
        where = path.index(index)
        if not name:
            errors.append(field.required(where, ""))
            continue
        if (name, request) in seen:
            errors.append(field.duplicate(where, f"{name}/{request}" if request else name))
        seen.add((name, request))
        if name not in known:
            which = f": {', '.join(sorted(known))}" if known else " which is empty"
            detail = f"must be one of the names in pod.spec.resourceClaims{which}"
            errors.append(replace(field.not_found(where, name), detail=detail))
    return errors
