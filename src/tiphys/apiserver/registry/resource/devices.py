"""Requests for devices, and what they are bound to.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/resource-claim-v1/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

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
MODES: Final = ("All", "ExactCount")
ONE_OF: Final = "exactly one of `exactly` or `firstAvailable` is required"
UNKNOWN_REQUEST: Final = (
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
)
ONE_ATTRIBUTE: Final = 'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set'


def devices_errors(devices: Json, path: Path) -> list[FieldError]:
    """Errors of the devices of a claim: requests, constraints among them, configuration for drivers."""
    requests: Sequence[Json] = devices.get("requests") or ()
    where = path.child("requests")
    errors: list[FieldError] = []
    if len(requests) > MAX_REQUESTS:
        errors.append(field.too_many(where, len(requests), MAX_REQUESTS))
    names: set[str] = set()
    seen: set[str] = set()
    for index, request in enumerate(requests):
        errors += _request_errors(request, where.index(index))
        name = request.get("name") or ""
        if name in seen:
            errors.append(field.duplicate(where.index(index), name))
        seen.add(name)
        names.add(name)
        names |= {f"{name}/{one.get('name')}" for one in request.get("firstAvailable") or ()}
    for index, constraint in enumerate(devices.get("constraints") or ()):
        errors += _constraint_errors(constraint, names, path.child("constraints").index(index))
    for index, config in enumerate(devices.get("config") or ()):
        errors += _config_errors(config, names, path.child("config").index(index))
    return errors


def _request_errors(request: Json, path: Path) -> list[FieldError]:
    name = request.get("name") or ""
    errors = [field.invalid(path.child("name"), name, message) for message in formats.dns1123_label(name)]
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
    if len(first) > MAX_SUBREQUESTS:
        errors.append(field.too_many(where, len(first), MAX_SUBREQUESTS))
    seen: set[str] = set()
    for index, option in enumerate(first):
        at = where.index(index)
        own = option.get("name") or ""
        errors += [field.invalid(at.child("name"), own, message) for message in formats.dns1123_label(own)]
        errors += _option_errors(option, at)
        if own in seen:
            errors.append(field.duplicate(at, own))
        seen.add(own)
    return errors


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
    errors: list[FieldError] = []
    if len(selectors) > MAX_SELECTORS:
        errors.append(field.too_many(path, len(selectors), MAX_SELECTORS))
    for index, selector in enumerate(selectors):
        where = path.index(index).child("cel")
        expression = (selector.get("cel") or {}).get("expression") or ""
        if selector.get("cel") is None:
            errors.append(field.required(where, ""))
        elif not expression:
            errors.append(field.required(where.child("expression"), ""))
        elif len(expression) > 10 * 1024:
            errors.append(field.too_long(where.child("expression"), "", 10 * 1024))
        elif problem := selector_problem(expression):
            errors.append(field.invalid(where.child("expression"), expression, problem))
    return errors


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
    errors: list[FieldError] = []
    for index, name in enumerate(listed):
        if name not in names:
            errors.append(field.invalid(path.index(index), name, UNKNOWN_REQUEST))
        if name in listed[:index]:
            errors.append(field.duplicate(path.index(index), name))
    return errors


def _constraint_errors(constraint: Json, names: set[str], path: Path) -> list[FieldError]:
    errors = _known_errors(constraint.get("requests") or (), names, path.child("requests"))
    match, distinct = constraint.get("matchAttribute"), constraint.get("distinctAttribute")
    if (match is None) == (distinct is None):
        errors.append(field.required(path, ONE_ATTRIBUTE))
        return errors
    name = "matchAttribute" if match is not None else "distinctAttribute"
    return errors + full_name_errors(str(match or distinct or ""), path.child(name))


def full_name_errors(name: str, path: Path) -> list[FieldError]:
    """`domain/identifier`."""
    domain, slash, identifier = name.partition("/")
    if not slash:
        detail = "a fully qualified name must be a domain and a name separated by a slash"
        return [field.invalid(path, name, detail)]
    errors = [field.invalid(path, domain, message) for message in formats.dns1123_subdomain(domain)]
    return errors + [field.invalid(path, identifier, message) for message in formats.c_identifier(identifier)]


def _config_errors(config: Json, names: set[str], path: Path) -> list[FieldError]:
    errors = _known_errors(config.get("requests") or (), names, path.child("requests"))
    return errors + opaque_errors(config.get("opaque"), path.child("opaque"))


def opaque_errors(opaque: Json | None, path: Path) -> list[FieldError]:
    """Configuration only its driver understands."""
    if opaque is None:
        return [field.required(path, "")]
    driver = opaque.get("driver") or ""
    errors: list[FieldError] = []
    if not driver:
        errors.append(field.required(path.child("driver"), ""))
    else:
        errors += [
            field.invalid(path.child("driver"), driver, message) for message in formats.dns1123_subdomain(driver)
        ]
    if opaque.get("parameters") is None:
        errors.append(field.required(path.child("parameters"), ""))
    elif not isinstance(opaque["parameters"], dict):
        errors.append(field.invalid(path.child("parameters"), "<value omitted>", "must be a valid JSON object"))
    return errors
