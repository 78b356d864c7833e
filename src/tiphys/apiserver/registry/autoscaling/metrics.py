"""The metrics an autoscaler scales by: what is valid, and how a row shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.validation.resources import validate_container_resource_name
from tiphys.machinery import field, formats
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
# In the order in which they are judged.
JUDGED: Final = ("object", "external", "pods", "resource", "containerResource")
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
    """The first source there is judged, whatever the type says; those of other types are too many."""
    kind = metric.get("type") or ""
    errors: list[FieldError] = []
    if not kind:
        errors.append(field.required(path.child("type"), "must specify a metric source type"))
    if kind not in SOURCES:
        errors.append(field.not_supported(path.child("type"), kind, sorted(SOURCES)))
    found = [name for name in JUDGED if metric.get(name) is not None]
    for name in found[:1]:
        errors += _source_errors(name, metric[name], path.child(name))
    wanted = SOURCES.get(kind)
    if len(found) > 1:
        detail = "must populate the given metric source only"
        errors += [field.forbidden(path.child(name), detail) for name in found if name != wanted]
    if not wanted:  # told again here
        errors.append(field.not_supported(path.child("type"), kind, sorted(SOURCES)))
    if wanted and metric.get(wanted) is None:
        errors.append(field.required(path.child(wanted), "must populate information for the given metric source"))
    return errors


def _source_errors(name: str, source: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    target = source.get("target") or {}
    if name in ("resource", "containerResource"):
        resource = source.get("name") or ""
        if not resource:
            errors.append(field.required(path.child("name"), "must specify a resource name"))
        elif name == "containerResource":
            errors += validate_container_resource_name(resource, path.child("name"))
        if name == "containerResource":
            errors += _container_errors(source.get("container") or "", path.child("container"))
        errors += _target_errors(target, path.child("target"))
        return errors + _resource_target_errors(target, path.child("target"))
    if name == "object":
        errors += reference_errors(source.get("describedObject") or {}, path.child("describedObject"))
    metric = (source.get("metric") or {}).get("name") or ""
    if not metric:
        errors.append(field.required(path.child("metric", "name"), "must specify a metric name"))
    else:
        messages = formats.path_segment(metric)
        errors += [field.invalid(path.child("metric", "name"), metric, message) for message in messages]
    errors += _target_errors(target, path.child("target"))
    return errors + _metric_target_errors(name, target, path.child("target"))


def _container_errors(name: str, path: Path) -> list[FieldError]:
    if not name:
        return [field.required(path, "must specify a container")]
    return [field.invalid(path, name, message) for message in formats.dns1123_label(name)]


def _target_errors(target: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    what = target.get("type") or ""
    if not what:
        errors.append(field.required(path.child("type"), "must specify a metric target type"))
    if what not in ("AverageValue", "Utilization", "Value"):
        errors.append(field.invalid(path.child("type"), what, "must be either Utilization, Value, or AverageValue"))
    errors.extend(
        field.invalid(path.child(name), str(target[name]), "must be positive")
        for name in ("value", "averageValue")
        if target.get(name) is not None and Quantity.parse(target[name]) <= Quantity.parse("0")
    )
    used = target.get("averageUtilization")
    if used is not None and used < 1:
        errors.append(field.invalid(path.child("averageUtilization"), used, "must be greater than 0"))
    return errors


def _resource_target_errors(target: Json, path: Path) -> list[FieldError]:
    used, average = target.get("averageUtilization"), target.get("averageValue")
    if used is None and average is None:
        detail = "must set either a target raw value or a target utilization"
        return [field.required(path.child("averageUtilization"), detail)]
    if used is not None and average is not None:
        detail = "may not set both a target raw value and a target utilization"
        return [field.forbidden(path.child("averageValue"), detail)]
    return []


# What a target without any value hears, by its source.
NO_VALUE: Final = {
    "object": "must set either a target value or averageValue",
    "external": "must set either a target value for metric or a per-pod target",
    "pods": "must specify a positive target averageValue",
}


def _metric_target_errors(name: str, target: Json, path: Path) -> list[FieldError]:
    value, average = target.get("value"), target.get("averageValue")
    if average is None and (value is None or name == "pods"):
        return [field.required(path.child("averageValue"), NO_VALUE[name])]
    if name == "external" and value is not None and average is not None:
        detail = "may not set both a target value for metric and a per-pod target"
        return [field.forbidden(path.child("value"), detail)]
    return []


def reference_errors(reference: Json, path: Path) -> list[FieldError]:
    """Errors of a reference to another object by kind and name."""
    errors: list[FieldError] = []
    for name in ("kind", "name"):
        value = reference.get(name) or ""
        if not value:
            errors.append(field.required(path.child(name), ""))
        else:
            errors += [field.invalid(path.child(name), value, message) for message in formats.path_segment(value)]
    version = reference.get("apiVersion") or ""
    if version.count("/") > 1:
        errors.append(field.invalid(path.child("apiVersion"), version, f"unexpected GroupVersion string: {version}"))
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
