"""Deployments. https://kubernetes.io/docs/concepts/workloads/controllers/deployment/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.apps.common import (
    SPEC,
    immutable_selector,
    named_template_warnings,
    non_negative_fields,
    selected_template_errors,
    status_counts,
)
from tiphys.apiserver.registry.defaults.pod import default_pod_template
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.tables import containers_and_images, selector_text
from tiphys.apiserver.registry.validation.int_or_percent import int_or_percent_errors, not_more_than_all, value_of
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

STRATEGY: Final = SPEC.child("strategy")


class DeploymentStrategy(StatusStrategy):
    """Rules of deployments."""

    pod_spec = ("spec", "template", "spec")

    reset_fields: ClassVar[Mapping[str, Sequence[tuple[str, ...]]]] = {"status": (("spec",), ("metadata", "labels"))}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        for name, value in (("replicas", 1), ("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)):
            if spec.get(name) is None:
                spec[name] = value
        strategy = spec.get("strategy")
        if strategy is None:
            strategy = spec["strategy"] = {}
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
        if strategy["type"] == "RollingUpdate":
            rolling = strategy.get("rollingUpdate")
            if rolling is None:
                rolling = strategy["rollingUpdate"] = {}
            for name in ("maxUnavailable", "maxSurge"):
                if rolling.get(name) is None:
                    rolling[name] = "25%"
        default_pod_template(spec.get("template"))

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = non_negative_fields(spec, "replicas")
        errors += selected_template_errors(spec, "deployment", "ReplicaSet")
        errors += _strategy_errors(spec.get("strategy") or {})
        errors += non_negative_fields(spec, "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
        deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds") or 0
        if deadline is not None and deadline <= ready:
            detail = "must be greater than minReadySeconds"
            errors.append(field.invalid(SPEC.child("progressDeadlineSeconds"), deadline, detail))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return self.validate(new) + immutable_selector(new, old)

    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """Labels do not change with the status."""
        super().prepare_for_status_update(ctx, new, old)
        if "labels" in old["metadata"]:
            new["metadata"]["labels"] = old["metadata"]["labels"]
        else:
            new["metadata"].pop("labels", None)

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        status = status_of(new)
        names = (
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "terminatingReplicas",
        )
        errors = status_counts(status, *names, "unavailableReplicas")
        replicas = status.get("replicas") or 0
        for name in ("updatedReplicas", "readyReplicas", "availableReplicas"):
            if (status.get(name) or 0) > replicas:
                detail = "cannot be greater than status.replicas"
                errors.append(field.invalid(Path("status").child(name), status.get(name) or 0, detail))
        if (status.get("availableReplicas") or 0) > (status.get("readyReplicas") or 0):
            detail = "cannot be greater than readyReplicas"
            where = Path("status").child("availableReplicas")
            errors.append(field.invalid(where, status.get("availableReplicas") or 0, detail))
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        return named_template_warnings(obj, old)

    def spec_changed(self, new: Object, old: Object) -> bool:
        """Annotations count too: the controller copies them."""
        annotations = (new["metadata"].get("annotations") or {}) != (old["metadata"].get("annotations") or {})
        return annotations or super().spec_changed(new, old)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        containers, images = containers_and_images((spec.get("template") or {}).get("spec") or {})
        return [
            name_of(obj),
            f"{status.get('readyReplicas') or 0}/{spec.get('replicas') or 0}",
            status.get("updatedReplicas") or 0,
            status.get("availableReplicas") or 0,
            age(obj, now),
            containers,
            images,
            selector_text(spec.get("selector")),
        ]


def _strategy_errors(strategy: Mapping[str, Any]) -> list[FieldError]:
    kind, rolling = strategy.get("type") or "", strategy.get("rollingUpdate")
    where = STRATEGY.child("rollingUpdate")
    if kind == "Recreate":
        if rolling is not None:
            detail = "may not be specified when strategy `type` is 'Recreate'"
            return [field.forbidden(where, detail)]
        return []
    if kind != "RollingUpdate":
        form = internal_form("DeploymentStrategy", strategy)
        return [field.not_supported(STRATEGY, form, ["Recreate", "RollingUpdate"])]
    if rolling is None:
        return [field.required(where, "this should be defaulted and never be nil")]
    errors: list[FieldError] = []
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    errors += int_or_percent_errors(unavailable, where.child("maxUnavailable"))
    errors += int_or_percent_errors(surge, where.child("maxSurge"))
    if value_of(unavailable) == 0 and value_of(surge) == 0:
        detail = "may not be 0 when `maxSurge` is 0"
        errors.append(field.invalid(where.child("maxUnavailable"), unavailable, detail))
    return errors + not_more_than_all(unavailable, where.child("maxUnavailable"))
