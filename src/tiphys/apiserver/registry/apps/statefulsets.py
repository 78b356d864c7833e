"""StatefulSets. https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.apps.common import (
    SPEC,
    TEMPLATE,
    mismatch_errors,
    non_negative_fields,
    selector_errors,
    selector_form,
    status_counts,
    template_labels,
    template_warnings,
)
from tiphys.apiserver.registry.defaults.pod import default_pod_template
from tiphys.apiserver.registry.defaults.volume import default_claim_spec
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, NameRule, Object, RequestContext, age
from tiphys.apiserver.registry.tables import containers_and_images
from tiphys.apiserver.registry.validation.claims import validate_claim_spec
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import validate_annotations, validate_labels, validate_non_negative
from tiphys.apiserver.registry.validation.pod import validate_pod_annotations, validate_pod_template
from tiphys.apiserver.registry.validation.pod_warnings import claim_warnings
from tiphys.apiserver.registry.validation.selectors import selector_is_empty, selector_matches
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

STRATEGY: Final = SPEC.child("updateStrategy")
MUTABLE: Final = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
IMMUTABLE_DETAIL: Final = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)


class StatefulSetStrategy(StatusStrategy):
    """Rules of stateful sets."""

    pod_spec = ("spec", "template", "spec")
    name_rule = NameRule.DNS_LABEL

    initial_status: ClassVar[Mapping[str, Any]] = {"replicas": 0, "availableReplicas": 0}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if not spec.get("podManagementPolicy"):
            spec["podManagementPolicy"] = "OrderedReady"
        strategy = spec.get("updateStrategy")
        if strategy is None:
            strategy = spec["updateStrategy"] = {}
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
            if strategy.get("rollingUpdate") is None:
                strategy["rollingUpdate"] = {}
        rolling = strategy.get("rollingUpdate")
        if strategy["type"] == "RollingUpdate" and rolling is not None and rolling.get("partition") is None:
            rolling["partition"] = 0
        retention = spec.get("persistentVolumeClaimRetentionPolicy")
        if retention is None:
            retention = spec["persistentVolumeClaimRetentionPolicy"] = {}
        for name in ("whenDeleted", "whenScaled"):
            if not retention.get(name):
                retention[name] = "Retain"
        for name, value in (("replicas", 1), ("revisionHistoryLimit", 10)):
            if spec.get(name) is None:
                spec[name] = value
        default_pod_template(spec.get("template"))
        for claim in spec.get("volumeClaimTemplates") or ():
            # Templates are kept as the claims they will be.
            claim["apiVersion"], claim["kind"] = "v1", "PersistentVolumeClaim"
            default_claim_spec(claim.setdefault("spec", {}))
            status = claim.setdefault("status", {})
            if not status.get("phase"):
                status["phase"] = "Pending"

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        _drop_gated(obj)

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_update(ctx, new, old)
        _drop_gated(new)

    def validate(self, obj: Object) -> list[FieldError]:
        return self._errors(obj, fixed=True)

    def _errors(self, obj: Object, *, fixed: bool) -> list[FieldError]:
        """`fixed`: judge also what no update may change, and so is not judged again."""
        spec = spec_of(obj)
        errors = _policy_errors(spec) + _strategy_errors(spec.get("updateStrategy") or {})
        errors += _retention_errors(spec.get("persistentVolumeClaimRetentionPolicy"))
        errors += non_negative_fields(spec, "replicas")
        if (ordinals := spec.get("ordinals")) is not None:
            errors += validate_non_negative(ordinals.get("start") or 0, SPEC.child("ordinals", "start"))
        errors += non_negative_fields(spec, "minReadySeconds")
        if fixed:
            errors += _fixed_field_errors(spec)
        errors += selector_errors(spec, "statefulset", invalid_too=False)
        selector = spec.get("selector")
        labels = template_labels(spec)
        if selector is not None and selector_matches(selector, labels) is None:
            return [*errors, field.invalid(SPEC.child("selector"), selector_form(selector), "")]
        if selector is None or not selector_is_empty(selector):
            errors += mismatch_errors(selector, labels, TEMPLATE)
        return errors + _template_errors(spec)

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self._errors(new, fixed=False)
        spec, known = spec_of(new), spec_of(old)
        if any(spec.get(name) != known.get(name) for name in {*spec, *known} - set(MUTABLE)):
            errors.append(field.forbidden(SPEC, IMMUTABLE_DETAIL))
        return errors

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        status = status_of(new)
        names = (
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "observedGeneration",
            "availableReplicas",
        )
        errors = status_counts(status, *names)
        for name in ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"):
            if (status.get(name) or 0) > (status.get("replicas") or 0):
                detail = "cannot be greater than status.replicas"
                errors.append(field.invalid(Path("status").child(name), status.get(name) or 0, detail))
        if (status.get("availableReplicas") or 0) > (status.get("readyReplicas") or 0):
            detail = "cannot be greater than status.readyReplicas"
            errors.append(field.invalid(Path("status").child("availableReplicas"), status["availableReplicas"], detail))
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        found = template_warnings(obj, old)
        for index, claim in enumerate(spec_of(obj).get("volumeClaimTemplates") or ()):
            found += claim_warnings(claim.get("spec") or {}, SPEC.child("volumeClaimTemplates").index(index))
        limit = spec_of(obj).get("revisionHistoryLimit")
        if limit is not None and limit < 0:
            found.append(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; "
                "a value >= 0 is recommended"
            )
        return found

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        containers, images = containers_and_images((spec.get("template") or {}).get("spec") or {})
        ready = f"{status.get('readyReplicas') or 0}/{spec.get('replicas') or 0}"
        return [name_of(obj), ready, age(obj, now), containers, images]


def _fixed_field_errors(spec: Mapping[str, Any]) -> list[FieldError]:
    errors: list[FieldError] = []
    if name := spec.get("serviceName"):
        errors += [field.invalid(SPEC.child("serviceName"), name, one) for one in formats.dns1123_label(name)]
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        where = SPEC.child("volumeClaimTemplates").index(index).child("spec")
        errors += validate_claim_spec(claim.get("spec") or {}, where)
    return errors


def _policy_errors(spec: Mapping[str, Any]) -> list[FieldError]:
    policy = spec.get("podManagementPolicy") or ""
    where = SPEC.child("podManagementPolicy")
    if not policy:
        return [field.required(where, "")]
    if policy in ("OrderedReady", "Parallel"):
        return []
    return [field.invalid(where, policy, "must be 'OrderedReady' or 'Parallel'")]


def _strategy_errors(strategy: Mapping[str, Any]) -> list[FieldError]:
    kind, rolling = strategy.get("type") or "", strategy.get("rollingUpdate")
    if not kind:
        return [field.required(STRATEGY, "")]
    if kind == "OnDelete":
        if rolling is None:
            return []
        value = internal_form("RollingUpdateStatefulSet", rolling)
        return [
            field.invalid(STRATEGY.child("rollingUpdate"), value, "only allowed for updateStrategy 'RollingUpdate'")
        ]
    if kind == "RollingUpdate":
        partition = (rolling or {}).get("partition") or 0
        return validate_non_negative(partition, STRATEGY.child("rollingUpdate", "partition"))
    value = internal_form("StatefulSetUpdateStrategy", strategy)
    return [field.invalid(STRATEGY, value, "must be 'RollingUpdate' or 'OnDelete'")]


def _retention_errors(policy: Mapping[str, Any] | None) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in ("whenScaled", "whenDeleted"):
        value = (policy or {}).get(name)
        if value not in ("Retain", "Delete"):
            where = SPEC.child("persistentVolumeClaimRetentionPolicy", name)
            errors.append(field.not_supported(where, value, ["Retain", "Delete"]))
    return errors


def _template_errors(spec: Mapping[str, Any]) -> list[FieldError]:
    """The template with the volumes its claims will be: they take the place of volumes of the same name."""
    template = spec.get("template") or {}
    metadata, pod = template.get("metadata") or {}, template.get("spec") or {}
    errors = validate_labels(metadata.get("labels") or {}, TEMPLATE.child("labels"))
    annotations = metadata.get("annotations") or {}
    errors += validate_annotations(annotations, TEMPLATE.child("annotations"))
    errors += validate_pod_annotations(annotations, pod, TEMPLATE.child("annotations"))
    names = [(claim.get("metadata") or {}).get("name") or "" for claim in spec.get("volumeClaimTemplates") or ()]
    volumes: list[Mapping[str, Any]] = [
        {"name": name, "persistentVolumeClaim": {"claimName": name}} for name in dict.fromkeys(names)
    ]
    volumes += [volume for volume in pod.get("volumes") or () if volume.get("name") not in names]
    unjudged = {"hostname": "", "subdomain": ""}  # every pod gets its own
    errors += validate_pod_template({**template, "spec": {**pod, **unjudged, "volumes": volumes}}, TEMPLATE)
    policy = pod.get("restartPolicy")
    if policy != "Always":
        errors.append(field.not_supported(TEMPLATE.child("spec", "restartPolicy"), policy, ["Always"]))
    if pod.get("activeDeadlineSeconds") is not None:
        detail = "activeDeadlineSeconds in StatefulSet is not Supported"
        errors.append(field.forbidden(TEMPLATE.child("spec", "activeDeadlineSeconds"), detail))
    return errors


def _drop_gated(obj: Object) -> None:
    """How many pods may be away in a rolling update is behind a feature gate that is off."""
    rolling = (spec_of(obj).get("updateStrategy") or {}).get("rollingUpdate")
    if rolling:
        rolling.pop("maxUnavailable", None)
