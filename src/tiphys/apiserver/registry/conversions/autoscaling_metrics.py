"""Metrics and behaviour of autoscaling/v2 in the shapes of v1, which only annotations of v1 objects have.

v1 has flat metrics (`targetAverageUtilization`); the behaviour is written with the names and the empty parts it has
inside the server (`ScaleUp`, `Tolerance: null`).
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v1/
"""

from __future__ import annotations

from typing import Any, Final

Object = dict[str, Any]
# The part of a metric that is there for each type.
PARTS: Final = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "External": "external",
    "Object": "object",
}
RULES: Final = ("stabilizationWindowSeconds", "selectPolicy", "policies", "tolerance")


def metric_to_v1(metric: Object, *, current: bool = False) -> Object:
    """A metric of v2 as v1 has it; `current`: one of a status."""
    part = PARTS.get(metric.get("type") or "", "")
    source = metric.get(part)
    if source is None:
        return {"type": metric.get("type") or ""}
    amounts = source.get("current" if current else "target") or {}
    prefix = "current" if current else "target"
    if part in ("resource", "containerResource"):
        shown = {
            "name": source.get("name") or "",
            f"{prefix}AverageUtilization": amounts.get("averageUtilization"),
            f"{prefix}AverageValue": amounts.get("averageValue") or ("0" if current else None),
            "container": source.get("container"),
        }
    else:
        shown = _of_named_metric(part, source, amounts, prefix)
    return {"type": metric["type"], part: {name: value for name, value in shown.items() if value is not None}}


def _of_named_metric(part: str, source: Object, amounts: Object, prefix: str) -> Object:
    named = source.get("metric") or {}
    name, selector = named.get("name") or "", named.get("selector")
    value, average = amounts.get("value"), amounts.get("averageValue")
    if part == "pods":
        return {"metricName": name, f"{prefix}AverageValue": average or "0", "selector": selector}
    if part == "external":
        value = value or ("0" if prefix == "current" else None)
        return {
            "metricName": name,
            "metricSelector": selector,
            f"{prefix}Value": value,
            f"{prefix}AverageValue": average,
        }
    about = source.get("describedObject") or {}
    target = {key: about[key] for key in ("kind", "name", "apiVersion") if about.get(key)}
    return {
        "target": {"kind": "", "name": "", **target},
        "metricName": name,
        f"{prefix}Value": value or "0",
        "selector": selector,
        "averageValue": average,
    }


def metric_from_v1(metric: Any, *, current: bool = False) -> Object:
    """A metric of v2 for one of v1; what is none is an empty metric, for validation to judge."""
    if not isinstance(metric, dict):
        return {}
    part = PARTS.get(str(metric.get("type") or ""), "")
    source = metric.get(part)
    if not isinstance(source, dict):
        return {"type": metric.get("type") or ""}
    prefix = "current" if current else "target"
    value, average = source.get(f"{prefix}Value"), source.get(f"{prefix}AverageValue")
    if part == "object":
        average = source.get("averageValue")
        value = None if average is not None else value
    given = {"value": value, "averageValue": average, "averageUtilization": source.get(f"{prefix}AverageUtilization")}
    amounts: Object = {name: amount for name, amount in given.items() if amount is not None}
    if not current:
        amounts = {"type": _target_type(amounts), **amounts}
    found: Object = {}
    if part in ("resource", "containerResource"):
        found["name"] = source.get("name") or ""
        if part == "containerResource":
            found["container"] = source.get("container") or ""
    else:
        selector = source.get("metricSelector" if part == "external" else "selector")
        found["metric"] = {"name": source.get("metricName") or "", **({"selector": selector} if selector else {})}
        if part == "object":
            found["describedObject"] = source.get("target") or {}
    return {"type": metric["type"], part: {**found, prefix: amounts}}


def _target_type(amounts: Object) -> str:
    if "averageUtilization" in amounts:
        return "Utilization"
    return "AverageValue" if "averageValue" in amounts else "Value"


def behavior_to_v1(behavior: Object) -> Object:
    """A behaviour as v1's annotation has it."""
    return {_capital(name): _rules_to_v1(behavior.get(name)) for name in ("scaleUp", "scaleDown")}


def _rules_to_v1(rules: Object | None) -> Object | None:
    if rules is None:
        return None
    shown = {_capital(name): rules.get(name) for name in RULES}
    if rules.get("policies") is not None:
        names = ("type", "value", "periodSeconds")
        shown["Policies"] = [{_capital(name): policy.get(name) for name in names} for policy in rules["policies"]]
    return shown


def behavior_from_v1(value: Any) -> Any:
    """The behaviour of such an annotation: names in any case, without what is null."""
    if isinstance(value, dict):
        return {name[:1].lower() + name[1:]: behavior_from_v1(part) for name, part in value.items() if part is not None}
    return [behavior_from_v1(part) for part in value] if isinstance(value, list) else value


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
