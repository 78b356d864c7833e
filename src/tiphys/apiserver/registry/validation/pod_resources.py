"""Resources of a whole pod: pod-level requirements and overhead.

https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#pod-level-resource-specification
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tiphys.apiserver.registry.validation.resources import (
    is_hugepages,
    validate_container_resource_name,
    validate_pod_resource_name,
    validate_quantity,
    validate_requirements,
)
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

Json = Mapping[str, Any]


def validate_pod_resources(spec: Json, claim_names: Collection[str], path: Path) -> list[FieldError]:
    """Errors of `spec.resources`: cpu, memory and huge pages, enough for what the containers ask."""
    resources: Json | None = spec.get("resources")
    if not resources:
        return []
    where = path.child("resources")
    errors: list[FieldError] = []
    if resources.get("claims"):
        errors.append(field.forbidden(where.child("claims"), "claims may not be set for Resources at pod-level"))
    errors += validate_requirements(resources, claim_names, where, validate_pod_resource_name)
    errors += _total_request_errors(spec, resources, where)
    return errors + _container_limit_errors(spec, resources, where)


def _total_request_errors(spec: Json, resources: Json, path: Path) -> list[FieldError]:
    totals: dict[str, Quantity] = {}
    for container in spec.get("containers") or ():
        for name, text in ((container.get("resources") or {}).get("requests") or {}).items():
            totals[name] = totals[name] + Quantity.parse(text) if name in totals else Quantity.parse(text)
    errors: list[FieldError] = []
    for name, text in sorted((resources.get("requests") or {}).items()):
        requested = Quantity.parse(text)
        if name in totals and totals[name] > requested:
            detail = f"must be greater than or equal to aggregate container requests of {totals[name]}"
            errors.append(field.invalid(path.child("requests").key(name), str(requested), detail))
    return errors


def _container_limit_errors(spec: Json, resources: Json, path: Path) -> list[FieldError]:
    limits: Mapping[str, str] = resources.get("limits") or {}
    errors: list[FieldError] = []
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            own = (container.get("resources") or {}).get("limits") or {}
            for name, text in sorted(own.items()):
                if name not in limits or is_hugepages(name):
                    continue
                if Quantity.parse(text) > Quantity.parse(limits[name]):
                    at = path.child(kind).index(index).key(name).child("limits")
                    detail = f"must be less than or equal to pod limits of {Quantity.parse(limits[name])}"
                    errors.append(field.invalid(at, str(Quantity.parse(text)), detail))
    return errors


def validate_overhead(overhead: Mapping[str, str] | None, path: Path) -> list[FieldError]:
    """Errors of the overhead of a runtime class, in pods and in the class itself."""
    errors: list[FieldError] = []
    for name in sorted(overhead or {}):
        where = path.key(name)
        errors += validate_container_resource_name(name, where)
        errors += validate_quantity(name, (overhead or {})[name], where)
    return errors
