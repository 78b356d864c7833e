"""Probes and lifecycle hooks of containers.

https://kubernetes.io/docs/concepts/workloads/pods/probes/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tiphys.apiserver.registry.validation.meta import validate_non_negative
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

PROBE_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc")
HOOK_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "sleep")
COUNTERS: Final = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def validate_probes(container: Json, grace_seconds: int, path: Path) -> list[FieldError]:
    """Errors of the liveness, readiness and startup probes of one container."""
    errors: list[FieldError] = []
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is None:
            continue
        where = path.child(name)
        errors += validate_probe(probe, grace_seconds, where)
        if name == "readinessProbe":
            if probe.get("terminationGracePeriodSeconds") is not None:
                value = probe["terminationGracePeriodSeconds"]
                at = where.child("terminationGracePeriodSeconds")
                errors.append(field.invalid(at, value, "must not be set for readinessProbes"))
        elif probe.get("successThreshold", 1) != 1:
            errors.append(field.invalid(where.child("successThreshold"), probe["successThreshold"], "must be 1"))
    return errors


def validate_probe(probe: Json, grace_seconds: int, path: Path) -> list[FieldError]:
    errors = _handler_errors(probe, PROBE_HANDLERS, grace_seconds, path)
    for name in COUNTERS:
        errors += validate_non_negative(probe.get(name) or 0, path.child(name))
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and grace <= 0:
        errors.append(field.invalid(path.child("terminationGracePeriodSeconds"), grace, "must be greater than 0"))
    return errors


def validate_lifecycle(lifecycle: Json | None, grace_seconds: int, path: Path) -> list[FieldError]:
    """Errors of postStart and preStop; a sleep must fit into the grace period."""
    errors: list[FieldError] = []
    for name in ("postStart", "preStop"):
        hook = (lifecycle or {}).get(name)
        if hook is not None:
            errors += _handler_errors(hook, HOOK_HANDLERS, grace_seconds, path.child(name))
    return errors


def _handler_errors(handler: Json, kinds: tuple[str, ...], grace_seconds: int, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    found = False
    for kind in kinds:
        action = handler.get(kind)
        if action is None:
            continue
        if found:
            errors.append(field.forbidden(path.child(kind), "may not specify more than 1 handler type"))
            continue
        found = True
        errors += _action_errors(kind, action, grace_seconds, path.child(kind))
    if not found:
        errors.append(field.required(path, "must specify a handler type"))
    return errors


def _action_errors(kind: str, action: Json, grace_seconds: int, path: Path) -> list[FieldError]:
    match kind:
        case "exec":
            return [] if action.get("command") else [field.required(path.child("command"), "")]
        case "httpGet":
            return _http_get_errors(action, path)
        case "sleep":
            seconds = action.get("seconds", 0)
            if 0 <= seconds <= grace_seconds:
                return []
            detail = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_seconds})"
            return [field.invalid(path, seconds, detail)]
        case _:
            return validate_port(action.get("port", 0), path.child("port"))


def _http_get_errors(action: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not action.get("path"):
        errors.append(field.required(path.child("path"), ""))
    errors += validate_port(action.get("port", 0), path.child("port"))
    scheme = action.get("scheme", "")
    if scheme not in ("HTTP", "HTTPS"):
        errors.append(field.not_supported(path.child("scheme"), scheme, ["HTTP", "HTTPS"]))
    for header in action.get("httpHeaders") or ():
        name = header.get("name", "")
        errors += [field.invalid(path.child("httpHeaders"), name, msg) for msg in formats.http_header_name(name)]
    return errors


def validate_port(port: int | str, path: Path) -> list[FieldError]:
    """A port by number or by name."""
    messages = formats.port_number(port) if isinstance(port, int) else formats.port_name(port)
    return [field.invalid(path, port, message) for message in messages]
