"""What Deployments, ReplicaSets, DaemonSets and StatefulSets share: selectors that fit their templates.

https://kubernetes.io/docs/concepts/workloads/controllers/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import IMMUTABLE, validate_non_negative
from tiphys.apiserver.registry.validation.pod import validate_pod_template
from tiphys.apiserver.registry.validation.pod_warnings import name_warnings, pod_warnings
from tiphys.apiserver.registry.validation.selectors import (
    selector_is_empty,
    selector_matches,
    validate_label_selector,
)
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
TEMPLATE: Final = SPEC.child("template")
MISMATCH: Final = "`selector` does not match template `labels`"


def selector_form(selector: Json | None) -> dict[str, Any] | None:
    """A selector as messages show it: without what is empty."""
    return None if selector is None else {key: value for key, value in selector.items() if value}


def template_labels(spec: Json) -> dict[str, str]:
    return ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}


def selector_errors(spec: Json, owner: str, *, invalid_too: bool) -> list[FieldError]:
    """A selector is required and not empty. `invalid_too`: an invalid one is named once more as a whole."""
    selector = spec.get("selector")
    where = SPEC.child("selector")
    if selector is None:
        return [field.required(where, "")]
    errors = validate_label_selector(selector, where)
    if selector_is_empty(selector):
        errors.append(field.invalid(where, selector_form(selector), f"empty selector is invalid for {owner}"))
    elif invalid_too and selector_matches(selector, {}) is None:
        errors.append(field.invalid(where, selector_form(selector), "invalid label selector"))
    return errors


def mismatch_errors(selector: Json | None, labels: dict[str, str], path: Path) -> list[FieldError]:
    """The template's labels must be selected; an empty or missing selector selects none of them."""
    if selector is not None and selector_matches(selector, labels):
        return []
    return [field.invalid(path.child("metadata", "labels"), labels or None, MISMATCH)]


def selected_template_errors(spec: Json, owner: str, pods_of: str) -> list[FieldError]:
    """Selector and template together; with a selector that cannot select anything the template is not judged."""
    selector: Json | None = spec.get("selector")
    errors = selector_errors(spec, owner, invalid_too=True)
    if selector is not None and (selector_is_empty(selector) or selector_matches(selector, {}) is None):
        return errors
    errors += mismatch_errors(selector, template_labels(spec), TEMPLATE)
    return errors + workload_template_errors(spec, pods_of)


def workload_template_errors(spec: Json, owner: str) -> list[FieldError]:
    """Errors of the template of a workload that keeps its pods running."""
    template: Json = spec.get("template") or {}
    pod: Json = template.get("spec") or {}
    errors = validate_pod_template(template, TEMPLATE)
    policy = pod.get("restartPolicy")
    if policy != "Always":
        errors.append(field.not_supported(TEMPLATE.child("spec", "restartPolicy"), policy, ["Always"]))
    if pod.get("activeDeadlineSeconds") is not None:
        detail = f"activeDeadlineSeconds in {owner} is not Supported"
        errors.append(field.forbidden(TEMPLATE.child("spec", "activeDeadlineSeconds"), detail))
    return errors


def non_negative_fields(spec: Json, *names: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in names:
        if spec.get(name) is not None:
            errors += validate_non_negative(spec[name], SPEC.child(name))
    return errors


def immutable_selector(new: Object, old: Object) -> list[FieldError]:
    """Since apps/v1 a workload's selector never changes."""
    selector = (new.get("spec") or {}).get("selector")
    if selector == (old.get("spec") or {}).get("selector"):
        return []
    return [field.invalid(SPEC.child("selector"), selector_form(selector), IMMUTABLE)]


def template_warnings(obj: Object, old: Object | None) -> list[str]:
    """Warnings of the pod template, when it is new or has changed."""
    template = (obj.get("spec") or {}).get("template") or {}
    if old is not None and ((old.get("spec") or {}).get("template") or {}) == template:
        return []
    metadata = template.get("metadata") or {}
    return pod_warnings(template.get("spec") or {}, metadata, TEMPLATE.child("spec"), TEMPLATE.child("metadata"))


def named_template_warnings(obj: Object, old: Object | None) -> list[str]:
    """As `template_warnings`, of a kind whose name is the beginning of its pods' names."""
    return (name_warnings(obj["metadata"]) if old is None else []) + template_warnings(obj, old)


def status_counts(status: Json, *names: str) -> list[FieldError]:
    """Counters of a status are not negative, nor is that of collisions, where there is one."""
    errors: list[FieldError] = []
    for name in (*names, "collisionCount"):
        errors += validate_non_negative(status.get(name) or 0, Path("status").child(name))
    return errors


def template_form(template: Json) -> dict[str, Any]:
    """A template as messages show it."""
    return internal_form("PodTemplateSpec", template)
