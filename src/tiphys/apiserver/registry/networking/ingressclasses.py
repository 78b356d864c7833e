"""IngressClasses. https://kubernetes.io/docs/concepts/services-networking/ingress/#ingress-class"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import NONE
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

SPEC: Final = Path("spec")
MAX_CONTROLLER: Final = 250


class IngressClassStrategy(TableStrategy):
    """The controller never changes; parameters are of the cluster or of one namespace."""

    def default(self, obj: Object) -> None:
        parameters = (obj.get("spec") or {}).get("parameters")
        if parameters is not None and parameters.get("scope") is None:
            parameters["scope"] = "Cluster"

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = _controller_errors(spec.get("controller") or "", SPEC.child("controller"))
        return errors + _parameters_errors(spec.get("parameters"), SPEC.child("parameters"))

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        controller, known = spec_of(new).get("controller") or "", spec_of(old).get("controller") or ""
        return validate_immutable(controller, known, SPEC.child("controller")) + self.validate(new)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        parameters = spec_of(obj).get("parameters")
        return [name_of(obj), spec_of(obj).get("controller") or "", _parameters_text(parameters), age(obj, now)]


def _parameters_text(parameters: Object | None) -> str:
    """`kind.group/name`."""
    if parameters is None:
        return NONE
    kind = parameters.get("kind") or ""
    group = parameters.get("apiGroup") or ""
    return f"{kind}.{group}/{parameters.get('name')}" if group else f"{kind}/{parameters.get('name')}"


def _controller_errors(controller: str, path: Path) -> list[FieldError]:
    if not controller:
        return [field.required(path, "")]
    errors: list[FieldError] = []
    if len(controller) > MAX_CONTROLLER:
        errors.append(field.too_long(path, controller, MAX_CONTROLLER))
    domain, _, rest = controller.partition("/")
    for message in formats.domain_prefixed_path(controller):
        shown = controller if "domain-prefixed" in message else rest if message.startswith("Invalid path") else domain
        errors.append(field.invalid(path, shown, message))
    return errors


def _parameters_errors(parameters: Object | None, path: Path) -> list[FieldError]:
    if parameters is None:
        return []
    group = parameters.get("apiGroup")
    errors: list[FieldError] = []
    if group is not None:
        errors += [field.invalid(path.child("apiGroup"), group, one) for one in formats.dns1123_subdomain(group)]
    for name in ("kind", "name"):
        value = parameters.get(name) or ""
        if not value:
            errors.append(field.required(path.child(name), ""))
        else:
            errors += [field.invalid(path.child(name), value, message) for message in formats.path_segment(value)]
    scope, namespace = parameters.get("scope"), parameters.get("namespace")
    where = path.child("namespace")
    if scope is None:
        errors.append(field.required(path.child("scope"), ""))
    elif scope not in ("Cluster", "Namespace"):
        errors.append(field.not_supported(path.child("scope"), scope, ["Cluster", "Namespace"]))
    elif scope == "Namespace":
        if namespace is None:
            errors.append(field.required(where, "`parameters.scope` is set to 'Namespace'"))
        else:
            errors += [field.invalid(where, namespace, message) for message in formats.dns1123_label(namespace)]
    elif namespace is not None:
        errors.append(field.forbidden(where, "`parameters.scope` is set to 'Cluster'"))
    return errors
