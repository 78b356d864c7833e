"""ReplicaSets. https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from tiphys.apiserver.registry.apps.common import (
    immutable_selector,
    named_template_warnings,
    non_negative_fields,
    selected_template_errors,
    status_counts,
)
from tiphys.apiserver.registry.defaults.pod import default_pod_template
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import containers_and_images, selector_text
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path


class ReplicaSetStrategy(StatusStrategy):
    """Rules of replica sets."""

    pod_spec = ("spec", "template", "spec")

    initial_status: ClassVar[Mapping[str, Any]] = {"replicas": 0}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if spec.get("replicas") is None:
            spec["replicas"] = 1
        default_pod_template(spec.get("template"))

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = non_negative_fields(spec, "replicas", "minReadySeconds")
        return errors + selected_template_errors(spec, "deployment", "ReplicaSet")

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return self.validate(new) + immutable_selector(new, old)

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        return replica_status_errors(status_of(new))

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        return named_template_warnings(obj, old)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return super().selectable_fields(obj) | {"status.replicas": str(status_of(obj).get("replicas") or 0)}

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        containers, images = containers_and_images((spec.get("template") or {}).get("spec") or {})
        return [
            name_of(obj),
            spec.get("replicas") or 0,
            status.get("replicas") or 0,
            status.get("readyReplicas") or 0,
            age(obj, now),
            containers,
            images,
            selector_text(spec.get("selector")),
        ]


def replica_status_errors(status: Object) -> list[FieldError]:
    """Errors of the counters of replica sets and replication controllers."""
    names = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration")
    errors = status_counts(status, *names)
    replicas = status.get("replicas") or 0
    for name in ("fullyLabeledReplicas", "readyReplicas", "availableReplicas"):
        if (status.get(name) or 0) > replicas:
            detail = "cannot be greater than status.replicas"
            errors.append(field.invalid(Path("status").child(name), status.get(name) or 0, detail))
    if (status.get("availableReplicas") or 0) > (status.get("readyReplicas") or 0):
        detail = "cannot be greater than readyReplicas"
        where = Path("status").child("availableReplicas")
        errors.append(field.invalid(where, status.get("availableReplicas") or 0, detail))
    return errors
