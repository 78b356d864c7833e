"""Requests for devices, and what they are bound to.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/resource-claim-v1/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.resource.sets import driver_errors, full_name_errors, label_errors, set_errors
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.machinery import field, formats
from tiphys.machinery.cel.devices import selector_problem
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

MAX_REQUESTS: Final = 32
MAX_CONSTRAINTS: Final = 32
MAX_CONFIGS: Final = 32
MAX_SELECTORS: Final = 32
MAX_SUBREQUESTS: Final = 8
MAX_EXPRESSION: Final = 10 * 1024
MODES: Final = ("All", "ExactCount")
ONE_OF: Final = "exactly one of `exactly` or `firstAvailable` is required"
UNKNOWN_REQUEST: Final = (
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
)
ONE_ATTRIBUTE: Final = 'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set'


def devices_errors(devices: Json, path: Path) -> list[FieldError]:
    """Errors of the devices of a claim: requests, constraints among them, configuration for drivers."""
    requests: Sequence[Json] = devices.get("requests") or ()
    errors = set_errors(
        requests, path.child("requests"), MAX_REQUESTS, _request_errors, lambda one: one.get("name") or ""
    )
    names: set[str] = set()
    for request in requests:
        name = request.get("name") or ""
        names.add(name)
        names |= {f"{name}/{one.get('name')}" for one in request.get("firstAvailable") or ()}
    errors += set_errors(
        devices.get("constraints") or (),
        path.child("constraints"),
        MAX_CONSTRAINTS,
        lambda one, where: _constraint_errors(one, names, where),
    )
    return errors + set_errors(
        devices.get("config") or (),
        path.child("config"),
        MAX_CONFIGS,
        lambda one, where: _config_errors(one, names, where),
    )


def _request_errors(request: Json, path: Path) -> list[FieldError]:
    name = request.get("name") or ""
    errors = label_errors(name, path.child("name"))
    exactly, first = request.get("exactly"), request.get("firstAvailable") or ()
    if exactly is not None and first:
        errors.append(field.invalid(path, None, f"{ONE_OF}, but multiple fields are set"))
        return errors
    if exactly is None and not first:
        errors.append(field.required(path, ONE_OF))
        return errors
    if exactly is not None:
        return errors + _option_errors(exactly, path.child("exactly"))
    where = path.child("firstAvailable")
    return errors + set_errors(first, where, MAX_SUBREQUESTS, _subrequest_errors, lambda one: one.get("name") or "")


def _subrequest_errors(option: Json, path: Path) -> list[FieldError]:
    return label_errors(option.get("name") or "", path.child("name")) + _option_errors(option, path)


def _option_errors(option: Json, path: Path) -> list[FieldError]:
    device_class = option.get("deviceClassName") or ""
    where = path.child("deviceClassName")
    errors: list[FieldError] = []
    if not device_class:
        errors.append(field.required(where, ""))
    else:
        errors += [field.invalid(where, device_class, message) for message in formats.dns1123_subdomain(device_class)]
    errors += selectors_errors(option.get("selectors") or (), path.child("selectors"))
    mode, count = option.get("allocationMode") or "", option.get("count") or 0
    if mode == "ExactCount":
        if count <= 0:
            errors.append(field.invalid(path.child("count"), count, "must be greater than zero"))
    elif mode == "All":
        if count:
            detail = "must not be specified when allocationMode is 'All'"
            errors.append(field.invalid(path.child("count"), count, detail))
    else:
        errors.append(field.not_supported(path.child("allocationMode"), mode, MODES))
    for index, toleration in enumerate(option.get("tolerations") or ()):
        errors += _toleration_errors(toleration, path.child("tolerations").index(index))
    return errors


def selectors_errors(selectors: Sequence[Json], path: Path) -> list[FieldError]:
    """Each selector has an expression."""
    return set_errors(selectors, path, MAX_SELECTORS, _selector_errors)


def _selector_errors(selector: Json, path: Path) -> list[FieldError]:
    where = path.child("cel")
    if selector.get("cel") is None:
        return [field.required(where, "")]
    expression = selector["cel"].get("expression") or ""
    if len(expression) > MAX_EXPRESSION:
        return [field.too_long(where.child("expression"), "", MAX_EXPRESSION)]
    problem = selector_problem(expression)
    return [field.invalid(where.child("expression"), expression, problem)] if problem else []


def _toleration_errors(toleration: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    key, operator = toleration.get("key") or "", toleration.get("operator") or ""
    if key:
        errors += validate_label_name(key, path.child("key"))
    if operator == "Exists":
        if toleration.get("value"):
            detail = "must be empty for operator `Exists`"
            errors.append(field.invalid(path.child("value"), toleration["value"], detail))
    elif operator == "Equal":
        value = toleration.get("value") or ""
        errors += [field.invalid(path.child("value"), value, message) for message in formats.label_value(value)]
    elif not operator:
        errors.append(field.required(path.child("operator"), ""))
    else:
        errors.append(field.not_supported(path.child("operator"), operator, ["Equal", "Exists"]))
    effect = toleration.get("effect") or ""
    if effect not in ("", "NoExecute", "NoSchedule", "None"):
        errors.append(field.not_supported(path.child("effect"), effect, ["NoExecute", "NoSchedule", "None"]))
    return errors


def _known_errors(listed: Sequence[str], names: set[str], path: Path) -> list[FieldError]:
    def check(name: str, where: Path) -> list[FieldError]:
        parts = name.split("/")
        errors = [error for part in parts for error in label_errors(part, where)] if len(parts) <= 2 else []
        return errors if name in names else [*errors, field.invalid(where, name, UNKNOWN_REQUEST)]

    return set_errors(listed, path, MAX_REQUESTS, check, str)


def _constraint_errors(constraint: Json, names: set[str], path: Path) -> list[FieldError]:
    errors = _known_errors(constraint.get("requests") or (), names, path.child("requests"))
    match, distinct = constraint.get("matchAttribute"), constraint.get("distinctAttribute")
    if match is not None:
        return errors + full_name_errors(match, path.child("matchAttribute"))
    if distinct is not None:
        return errors + full_name_errors(distinct, path.child("distinctAttribute"))
    return [*errors, field.required(path, ONE_ATTRIBUTE)]


def _config_errors(config: Json, names: set[str], path: Path) -> list[FieldError]:
    errors = _known_errors(config.get("requests") or (), names, path.child("requests"))
    return errors + opaque_errors(config.get("opaque"), path.child("opaque"))


def opaque_errors(opaque: Json | None, path: Path) -> list[FieldError]:
    """Configuration only its driver understands."""
    if opaque is None:
        return [field.required(path, "")]
    errors = driver_errors(opaque.get("driver") or "", path.child("driver"))
    if opaque.get("parameters") is None:
        errors.append(field.required(path.child("parameters"), ""))
    elif not isinstance(opaque["parameters"], dict):
        errors.append(field.invalid(path.child("parameters"), "<value omitted>", "must be a valid JSON object"))
    return errors
