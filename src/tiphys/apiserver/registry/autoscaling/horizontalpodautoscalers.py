"""HorizontalPodAutoscalers, stored as autoscaling/v2.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.autoscaling.metrics import metrics_errors, reference_errors, targets_text
from tiphys.apiserver.registry.conversions.autoscaling import drop_v1_annotations
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import UNSET
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

SPEC: Final = Path("spec")
SCALE_UP_POLICIES: Final = (
    {"type": "Pods", "value": 4, "periodSeconds": 15},
    {"type": "Percent", "value": 100, "periodSeconds": 15},
)
SCALE_DOWN_POLICIES: Final = ({"type": "Percent", "value": 100, "periodSeconds": 15},)
DEFAULT_METRIC: Final[Mapping[str, Any]] = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
}
# In seconds: a policy looks back at most half an hour, a window one hour.
MAX_PERIOD: Final = 1800
MAX_WINDOW: Final = 3600


class HorizontalPodAutoscalerStrategy(StatusStrategy):
    """Rules of autoscalers."""

    initial_status: ClassVar[Mapping[str, Any]] = {"desiredReplicas": 0, "currentMetrics": None}

    def default(self, obj: Object) -> None:
        drop_v1_annotations(obj)
        spec = obj.setdefault("spec", {})
        if spec.get("minReplicas") is None:
            spec["minReplicas"] = 1
        if not spec.get("metrics"):
            spec["metrics"] = [deepcopy(dict(DEFAULT_METRIC))]
        behavior = spec.get("behavior")
        if behavior is not None:
            _default_rules(behavior, "scaleUp", SCALE_UP_POLICIES, 0)
            _default_rules(behavior, "scaleDown", SCALE_DOWN_POLICIES, None)

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        low, high = spec.get("minReplicas"), spec.get("maxReplicas") or 0
        errors: list[FieldError] = []
        if low is not None and low < 1:
            errors.append(field.invalid(SPEC.child("minReplicas"), low, "must be greater than or equal to 1"))
        if not high:
            errors.append(field.required(SPEC.child("maxReplicas"), "must be set and greater than 0"))
        elif high < 1:
            errors.append(field.invalid(SPEC.child("maxReplicas"), high, "must be greater than or equal to 1"))
        if low is not None and high < low:
            errors.append(
                field.invalid(SPEC.child("maxReplicas"), high, "must be greater than or equal to `minReplicas`")
            )
        errors += _target_errors(spec.get("scaleTargetRef") or {}, SPEC.child("scaleTargetRef"))
        errors += metrics_errors(spec.get("metrics") or (), SPEC.child("metrics"))
        if low == 0 and not any(one.get("type") in ("Object", "External") for one in spec.get("metrics") or ()):
            detail = "must specify at least one Object or External metric to support scaling to zero replicas"
            errors.append(field.forbidden(SPEC.child("metrics"), detail))
        behavior = spec.get("behavior") or {}
        for name in ("scaleUp", "scaleDown"):
            if behavior.get(name) is not None:
                errors += _rules_errors(behavior[name], SPEC.child("behavior", name))
        return errors

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        status = status_of(new)
        errors: list[FieldError] = []
        for name in ("currentReplicas", "desiredReplicas"):
            if (status.get(name) or 0) < 0:
                detail = "must be greater than or equal to 0"
                errors.append(field.invalid(Path("status").child(name), status[name], detail))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        target = spec.get("scaleTargetRef") or {}
        low = spec.get("minReplicas")
        return [
            name_of(obj),
            f"{target.get('kind')}/{target.get('name')}",
            targets_text(spec.get("metrics") or (), status.get("currentMetrics") or ()),
            UNSET if low is None else str(low),
            spec.get("maxReplicas") or 0,
            status.get("currentReplicas") or 0,
            age(obj, now),
        ]


def _default_rules(behavior: Object, name: str, policies: Sequence[Mapping[str, Any]], window: int | None) -> None:
    rules = behavior.get(name)
    if rules is None:
        rules = behavior[name] = {}
    if rules.get("selectPolicy") is None:
        rules["selectPolicy"] = "Max"
    if rules.get("stabilizationWindowSeconds") is None and window is not None:
        rules["stabilizationWindowSeconds"] = window
    if rules.get("policies") is None:
        rules["policies"] = [dict(policy) for policy in policies]


def _target_errors(reference: Mapping[str, Any], path: Path) -> list[FieldError]:
    """What is scaled is of some API group, or a ReplicationController."""
    errors = reference_errors(reference, path)
    version = reference.get("apiVersion") or ""
    if not version.rpartition("/")[0] and reference.get("kind") != "ReplicationController":
        errors.append(field.invalid(path.child("apiVersion"), version, "apiVersion must specify API group"))
    return errors


def _rules_errors(rules: Mapping[str, Any], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    window, select = rules.get("stabilizationWindowSeconds"), rules.get("selectPolicy")
    where = path.child("stabilizationWindowSeconds")
    if window is not None and window < 0:
        errors.append(field.invalid(where, window, "must be greater than or equal to zero"))
    if window is not None and window > MAX_WINDOW:
        errors.append(field.invalid(where, window, f"must be less than or equal to {MAX_WINDOW}"))
    if select is not None and select not in ("Disabled", "Max", "Min"):
        errors.append(field.not_supported(path.child("selectPolicy"), select, ["Disabled", "Max", "Min"]))
    tolerance = rules.get("tolerance")
    if tolerance is not None and Quantity.parse(tolerance) < Quantity.parse("0"):
        text = str(Quantity.parse(tolerance))
        errors.append(field.invalid(path.child("tolerance"), text, "must be greater than or equal to 0"))
    policies = rules.get("policies") or ()
    if not policies:
        errors.append(field.required(path.child("policies"), "must specify at least one Policy"))
    for index, policy in enumerate(policies):
        errors += _policy_errors(policy, path.child("policies").index(index))
    return errors


def _policy_errors(policy: Mapping[str, Any], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    kind, value, period = policy.get("type") or "", policy.get("value") or 0, policy.get("periodSeconds") or 0
    if kind not in ("Pods", "Percent"):
        errors.append(field.not_supported(path.child("type"), kind, ["Percent", "Pods"]))
    if value <= 0:
        errors.append(field.invalid(path.child("value"), value, "must be greater than zero"))
    if period <= 0:
        errors.append(field.invalid(path.child("periodSeconds"), period, "must be greater than zero"))
    if period > MAX_PERIOD:
        errors.append(field.invalid(path.child("periodSeconds"), period, f"must be less than or equal to {MAX_PERIOD}"))
    return errors
