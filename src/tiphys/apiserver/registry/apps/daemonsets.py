"""DaemonSets. https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.apps.common import (
    SPEC,
    TEMPLATE,
    immutable_selector,
    mismatch_errors,
    non_negative_fields,
    selector_form,
    status_counts,
    template_labels,
    template_warnings,
    workload_template_errors,
)
from tiphys.apiserver.registry.defaults.pod import default_pod_template
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.tables import containers_and_images, labels_text, selector_text
from tiphys.apiserver.registry.validation.int_or_percent import int_or_percent_errors, not_more_than_all, value_of
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.selectors import (
    selector_is_empty,
    selector_matches,
    validate_label_selector,
)
from tiphys.machinery import field
from tiphys.machinery.field import FieldError

# Counts changes of the template, for clients of before apps/v1.
TEMPLATE_GENERATION: Final = "deprecated.daemonset.template.generation"
STATUS_COUNTS: Final = (
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
)


class DaemonSetStrategy(StatusStrategy):
    """Rules of daemon sets."""

    pod_spec = ("spec", "template", "spec")

    initial_status: ClassVar[Mapping[str, Any]] = {
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    }

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        strategy = spec.get("updateStrategy")
        if strategy is None:
            strategy = spec["updateStrategy"] = {}
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
        if strategy["type"] == "RollingUpdate":
            rolling = strategy.get("rollingUpdate")
            if rolling is None:
                rolling = strategy["rollingUpdate"] = {}
            for name, value in (("maxUnavailable", 1), ("maxSurge", 0)):
                if rolling.get(name) is None:
                    rolling[name] = value
        if spec.get("revisionHistoryLimit") is None:
            spec["revisionHistoryLimit"] = 10
        default_pod_template(spec.get("template"))
        _count_template(obj, 1)

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        _count_template(obj, 1)

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_update(ctx, new, old)
        known = (old["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "0")
        number = int(known) if known.isdecimal() else 0
        if (new.get("spec") or {}).get("template") != (old.get("spec") or {}).get("template"):
            number += 1
        if number:
            new["metadata"]["annotations"] = {
                **(new["metadata"].get("annotations") or {}),
                TEMPLATE_GENERATION: str(number),
            }

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        selector = spec.get("selector")
        errors = validate_label_selector(selector, SPEC.child("selector"))
        if selector is None or selector_matches(selector, template_labels(spec)) is not None:
            errors += mismatch_errors(selector, template_labels(spec), TEMPLATE)
        if selector is not None and selector_is_empty(selector):
            detail = "empty selector is invalid for daemonset"
            errors.append(field.invalid(SPEC.child("selector"), selector_form(selector), detail))
        errors += workload_template_errors(spec, "DaemonSet")
        errors += non_negative_fields(spec, "minReadySeconds")
        errors += _strategy_errors(spec.get("updateStrategy") or {})
        return errors + non_negative_fields(spec, "revisionHistoryLimit")

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return self.validate(new) + immutable_selector(new, old)

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        return status_counts(status_of(new), *STATUS_COUNTS)

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        return template_warnings(obj, old)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        pod = (spec.get("template") or {}).get("spec") or {}
        containers, images = containers_and_images(pod)
        return [
            name_of(obj),
            status.get("desiredNumberScheduled") or 0,
            status.get("currentNumberScheduled") or 0,
            status.get("numberReady") or 0,
            status.get("updatedNumberScheduled") or 0,
            status.get("numberAvailable") or 0,
            labels_text(pod.get("nodeSelector")),
            age(obj, now),
            containers,
            images,
            selector_text(spec.get("selector")),
        ]


def _count_template(obj: Object, number: int) -> None:
    """Set the count of template changes where there is none."""
    metadata = obj.setdefault("metadata", {})
    annotations = metadata.get("annotations") or {}
    known = annotations.get(TEMPLATE_GENERATION, "")
    if not known.isdecimal() or known == "0":
        metadata["annotations"] = {**annotations, TEMPLATE_GENERATION: str(number)}


def _strategy_errors(strategy: Mapping[str, Any]) -> list[FieldError]:
    kind, rolling = strategy.get("type") or "", strategy.get("rollingUpdate")
    path = SPEC.child("updateStrategy")
    where = path.child("rollingUpdate")
    if kind == "OnDelete":
        return []
    if kind != "RollingUpdate":
        form = internal_form("DaemonSetUpdateStrategy", strategy)
        return [field.not_supported(path, form, ["RollingUpdate", "OnDelete"])]
    if rolling is None:
        return [field.required(where, "")]
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    errors = int_or_percent_errors(unavailable, where.child("maxUnavailable"))
    errors += not_more_than_all(unavailable, where.child("maxUnavailable"))
    errors += int_or_percent_errors(surge, where.child("maxSurge"))
    errors += not_more_than_all(surge, where.child("maxSurge"))
    both = value_of(unavailable) != 0 and value_of(surge) != 0
    if both:
        errors.append(field.invalid(where.child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
    elif value_of(unavailable) == 0 and value_of(surge) == 0:
        detail = "cannot be 0 when maxSurge is 0"
        errors.append(field.required(where.child("maxUnavailable"), detail))
    return errors
