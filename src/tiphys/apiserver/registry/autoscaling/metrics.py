"""The metrics an autoscaler scales by: what is valid, and how a row shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

Json = Mapping[str, Any]

# Metric type → the field that describes it.
SOURCES: Final = {
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
    "External": "external",
    "ContainerResource": "containerResource",
}
UNKNOWN: Final = "<unknown>"
# How many metrics a row shows.
SHOWN: Final = 2


def metrics_errors(metrics: Sequence[Json], path: Path) -> list[FieldError]:
    """Errors of `spec.metrics`."""
    errors: list[FieldError] = []
    for index, metric in enumerate(metrics):
        errors += _metric_errors(metric, path.index(index))
    return errors


def _metric_errors(metric: Json, path: Path) -> list[FieldError]:
    kind = metric.get("type") or ""
    if not kind:
        return [field.required(path.child("type"), "must specify a metric source type")]
    if kind not in SOURCES:
        return [field.not_supported(path.child("type"), kind, sorted(SOURCES))]
    errors: list[FieldError] = []
    wanted = SOURCES[kind]
    for name in SOURCES.values():
        if name != wanted and metric.get(name) is not None:
            detail = "must specify only one metric source"
            errors.append(field.forbidden(path.child(name), detail))
    source = metric.get(wanted)
    if source is None:
        detail = "must populate information for the given metric source"
        errors.append(field.required(path.child(wanted), detail))
        return errors
    return errors + _source_errors(kind, source, path.child(wanted))


def _source_errors(kind: str, source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if kind in ("Resource", "ContainerResource"):
        if kind == "ContainerResource" and not source.get("container"):
            errors.append(field.required(path.child("container"), "must specify a container"))
        if not source.get("name"):
            errors.append(field.required(path.child("name"), "must specify a resource name"))
    elif not (source.get("metric") or {}).get("name"):
        errors.append(field.required(path.child("metric", "name"), "must specify a metric name"))
    return errors + _target_errors(source.get("target") or {}, kind, path.child("target"))


def _target_errors(target: Json, kind: str, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    what = target.get("type") or ""
    if not what:
        errors.append(field.required(path.child("type"), "must specify a metric target type"))
    elif what not in ("AverageValue", "Utilization", "Value"):
        errors.append(field.invalid(path.child("type"), what, "must be either Utilization, Value, or AverageValue"))
    errors.extend(
        field.invalid(path.child(name), str(target[name]), "must be positive")
        for name in ("value", "averageValue")
        if target.get(name) is not None and Quantity.parse(target[name]) <= Quantity.parse("0")
    )
    used = target.get("averageUtilization")
    if used is not None and used < 1:
        errors.append(field.invalid(path.child("averageUtilization"), used, "must be greater than 0"))
    if kind in ("Resource", "ContainerResource"):
        if used is None and target.get("averageValue") is None:
            detail = "must set either a target raw value or a target utilization"
            errors.append(field.required(path.child("averageUtilization"), detail))
        if used is not None and target.get("averageValue") is not None:
            detail = "may not set both a target raw value and a target utilization"
            errors.append(field.forbidden(path.child("averageValue"), detail))
    return errors


def targets_text(metrics: Sequence[Json], current: Sequence[Json]) -> str:
    """Each metric as `current/target`."""
    if not metrics:
        return "<none>"
    shown: list[str] = []
    for index, metric in enumerate(metrics[:SHOWN]):
        now = current[index] if index < len(current) else {}
        shown.append(_one_text(metric, now))
    text = ", ".join(shown)
    return f"{text} + {len(metrics) - SHOWN} more..." if len(metrics) > SHOWN else text


def _one_text(metric: Json, current: Json) -> str:
    kind = metric.get("type") or ""
    name = SOURCES.get(kind, "")
    target = (metric.get(name) or {}).get("target") or {}
    now = (current.get(name) or {}).get("current") or {}
    if kind in ("Resource", "ContainerResource"):
        label = f"{(metric.get(name) or {}).get('name')}: "
        if target.get("averageValue") is not None:
            return f"{label}{now.get('averageValue', UNKNOWN)}/{target['averageValue']}"
        used = now.get("averageUtilization")
        goal = target.get("averageUtilization")
        return f"{label}{UNKNOWN if used is None else f'{used}%'}/{'<auto>' if goal is None else f'{goal}%'}"
    if target.get("averageValue") is not None:
        average = " (avg)" if kind != "Pods" else ""
        return f"{now.get('averageValue', UNKNOWN)}/{target['averageValue']}{average}"
    return f"{now.get('value', UNKNOWN)}/{target.get('value')}"
