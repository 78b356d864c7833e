"""Which objects a quota is about: all of a namespace, or those in its scopes.

https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tiphys.apiserver.admission.quota.usage import container_part

Object = Mapping[str, Any]


def in_scopes(quota: Object, resource: str, obj: Object) -> bool:
    """Whether an object of the core group's `resource` is in every scope of a quota."""
    return all(_in_scope(term, resource, obj) for term in _terms(quota.get("spec") or {}))


def _terms(spec: Object) -> Iterator[Object]:
    for scope in spec.get("scopes") or ():
        yield {"scopeName": scope, "operator": "Exists"}
    yield from (spec.get("scopeSelector") or {}).get("matchExpressions") or ()


def _in_scope(term: Object, resource: str, obj: Object) -> bool:
    spec = obj.get("spec") or {}
    name = term.get("scopeName")
    if resource == "persistentvolumeclaims":
        return name == "VolumeAttributesClass" and _selects(term, spec.get("volumeAttributesClassName") or "")
    if resource != "pods":
        return False  # other kinds have no scopes, so a quota with one is not about them
    match name:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return is_best_effort(spec)
        case "NotBestEffort":
            return not is_best_effort(spec)
        case "PriorityClass":
            return _selects(term, spec.get("priorityClassName") or "")
        case "CrossNamespacePodAffinity":
            return reaches_out(spec)
    return False


def _selects(term: Object, value: str) -> bool:
    values = term.get("values") or ()
    match term.get("operator"):
        case "Exists":
            return bool(value)
        case "DoesNotExist":
            return not value
        case "In":
            return value in values
        case "NotIn":
            return value not in values
    return False


def is_best_effort(spec: Object) -> bool:
    """Whether no container of a pod asks for or is limited in cpu or memory."""
    if any((spec.get("resources") or {}).get(part) for part in ("requests", "limits")):
        return False
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        for part in ("requests", "limits"):
            amounts = container_part(container, part)
            if any(name in amounts and not amounts[name].is_zero() for name in ("cpu", "memory")):
                return False
    return True


def reaches_out(spec: Object) -> bool:
    """Whether a pod's affinity looks at pods of other namespaces."""
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        required = list(terms.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        preferred = terms.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        required += [weighted.get("podAffinityTerm") or {} for weighted in preferred]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in required):
            return True
    return False
