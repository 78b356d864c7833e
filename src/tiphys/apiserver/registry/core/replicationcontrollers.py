"""ReplicationControllers. https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from tiphys.apiserver.registry.apps.common import (
    MISMATCH,
    SPEC,
    TEMPLATE,
    named_template_warnings,
    non_negative_fields,
    template_labels,
    workload_template_errors,
)
from tiphys.apiserver.registry.apps.replicasets import replica_status_errors
from tiphys.apiserver.registry.defaults.pod import default_pod_template
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, GarbageCollection, NameRule, Object, age
from tiphys.apiserver.registry.tables import containers_and_images, labels_text
from tiphys.apiserver.registry.validation.meta import name_errors
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError


class ReplicationControllerStrategy(StatusStrategy):
    """Rules of replication controllers: selectors are plain labels and come from the template when absent."""

    pod_spec = ("spec", "template", "spec")

    # Checked by validate: the same names as elsewhere, but lengths are said in bytes.
    name_rule: ClassVar[NameRule] = NameRule.ANY
    initial_status: ClassVar[Mapping[str, Any]] = {"replicas": 0}
    garbage_collection: ClassVar[GarbageCollection] = GarbageCollection.ORPHAN

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if spec.get("replicas") is None:
            spec["replicas"] = 1
        labels = template_labels(spec)
        if labels:
            if not spec.get("selector"):
                spec["selector"] = dict(labels)
            metadata = obj.setdefault("metadata", {})
            if not metadata.get("labels"):
                metadata["labels"] = dict(labels)
        default_pod_template(spec.get("template"))

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = name_errors(obj["metadata"], _name_messages)
        errors += non_negative_fields(spec, "minReadySeconds")
        selector: dict[str, str] = spec.get("selector") or {}
        if not selector:
            errors.append(field.required(SPEC.child("selector"), ""))
        errors += non_negative_fields(spec, "replicas")
        if spec.get("template") is None:
            errors.append(field.required(TEMPLATE, ""))
            return errors
        labels = template_labels(spec)
        if selector and any(labels.get(key) != value for key, value in selector.items()):
            errors.append(field.invalid(TEMPLATE.child("metadata", "labels"), labels or None, MISMATCH))
        return errors + workload_template_errors(spec, "ReplicationController")

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
            labels_text(spec.get("selector")),
        ]


def _name_messages(name: str) -> list[str]:
    return [
        message.replace("characters", "bytes") if "no more" in message else message
        for message in formats.dns1123_subdomain(name)
    ]
