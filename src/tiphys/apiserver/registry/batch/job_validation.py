"""What a valid job is, and what may change in one that exists.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from tiphys.apiserver.registry.apps.common import MISMATCH, template_form
from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import IMMUTABLE, validate_label_name, validate_non_negative
from tiphys.apiserver.registry.validation.paths import domain_path_errors
from tiphys.apiserver.registry.validation.pod import validate_pod_template
from tiphys.apiserver.registry.validation.selectors import selector_matches, validate_label_selector
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
# An indexed job with more completions than this may not fail per index without bound.
MAX_INDEXED_PARALLELISM: Final = 100000
# With more completions than this and a back-off limit an index, other numbers are held lower.
MANY_COMPLETIONS: Final = 100000
MAX_WITH_MANY: Final = 10000
MAX_FAILURE_RULES: Final = 20
MAX_EXIT_CODES: Final = 255
MAX_POD_CONDITIONS: Final = 20
FAILURE_ACTIONS: Final = ("Count", "FailIndex", "FailJob", "Ignore")
MUTABLE_WHILE_SUSPENDED: Final = ("nodeSelector", "tolerations", "schedulingGates")


def validate_job_spec(spec: Json, path: Path) -> list[FieldError]:
    """Errors of a job as such, with its selector."""
    errors = job_fields_errors(spec, path)
    selector: Json | None = spec.get("selector")
    if selector is None:
        errors.append(field.required(path.child("selector"), ""))
    else:
        errors += validate_label_selector(selector, path.child("selector"))
    if selector is not None:
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
        if selector_matches(selector, labels) is False:
            errors.append(field.invalid(path.child("template", "metadata", "labels"), labels, MISMATCH))
    return errors


def job_fields_errors(spec: Json, path: Path) -> list[FieldError]:
    """Errors of everything but the selector: also of the template of a CronJob."""
    errors: list[FieldError] = []
    for name in (
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ):
        if spec.get(name) is not None:
            errors += validate_non_negative(spec[name], path.child(name))
    errors += _mode_errors(spec, path)
    if (managed := spec.get("managedBy")) is not None:
        errors += domain_path_errors(managed, path.child("managedBy"))
        if len(managed) > 63:
            errors.append(field.too_long(path.child("managedBy"), managed, 63))
    errors += _failure_policy_errors(spec, path)
    errors += _success_policy_errors(spec, path)
    errors += _replacement_errors(spec, path)
    template = spec.get("template") or {}
    errors += validate_pod_template(template, path.child("template"))
    return errors + _restart_errors(spec, template, path)


def _mode_errors(spec: Json, path: Path) -> list[FieldError]:
    mode = spec.get("completionMode")
    if mode is None:
        mode = "NonIndexed"
    if mode not in ("Indexed", "NonIndexed"):
        return [field.not_supported(path.child("completionMode"), mode, ["NonIndexed", "Indexed"])]
    errors: list[FieldError] = []
    if mode == "Indexed":
        errors += _indexed_errors(spec, path)
    else:
        errors.extend(
            field.invalid(path.child(name), spec[name], "requires indexed completion mode")
            for name in ("backoffLimitPerIndex", "maxFailedIndexes")
            if spec.get(name) is not None
        )
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        # Before what the mode has to say of it.
        errors.insert(0, field.required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
    return errors


def _indexed_errors(spec: Json, path: Path) -> list[FieldError]:
    completions, parallelism, failed = (spec.get(name) for name in ("completions", "parallelism", "maxFailedIndexes"))
    errors: list[FieldError] = []
    if completions is None:
        errors.append(field.required(path.child("completions"), "when completion mode is Indexed"))
    if parallelism is not None and parallelism > MAX_INDEXED_PARALLELISM:
        detail = "must be less than or equal to 100000 when completion mode is Indexed"
        errors.append(field.invalid(path.child("parallelism"), parallelism, detail))
    if failed is not None and completions is not None and failed > completions:
        detail = "must be less than or equal to completions"
        errors.append(field.invalid(path.child("maxFailedIndexes"), failed, detail))
    if completions is None or completions <= MANY_COMPLETIONS or spec.get("backoffLimitPerIndex") is None:
        return errors
    if failed is None:
        detail = f"must be specified when completions is above {MANY_COMPLETIONS}"
        errors.append(field.required(path.child("maxFailedIndexes"), detail))
    for name, value in (("parallelism", parallelism), ("maxFailedIndexes", failed)):
        if value is not None and value > MAX_WITH_MANY:
            detail = (
                f"must be less than or equal to {MAX_WITH_MANY} when completions are above {MANY_COMPLETIONS} "
                "and used with backoff limit per index"
            )
            errors.append(field.invalid(path.child(name), value, detail))
    return errors


def _failure_policy_errors(spec: Json, path: Path) -> list[FieldError]:
    policy = spec.get("podFailurePolicy")
    if policy is None:
        return []
    where = path.child("podFailurePolicy", "rules")
    rules = policy.get("rules") or ()
    if len(rules) > MAX_FAILURE_RULES:
        return [field.too_many(where, len(rules), MAX_FAILURE_RULES)]
    pod = (spec.get("template") or {}).get("spec") or {}
    names = {one.get("name") for kind in ("containers", "initContainers") for one in pod.get(kind) or ()}
    errors: list[FieldError] = []
    for index, rule in enumerate(rules):
        errors += _failure_rule_errors(rule, spec, names, where.index(index))
    return errors


def _failure_rule_errors(rule: Json, spec: Json, names: set[Any], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    action = rule.get("action") or ""
    if not action:
        errors.append(field.required(path.child("action"), 'valid values: ["Count" "FailIndex" "FailJob" "Ignore"]'))
    elif action not in FAILURE_ACTIONS:
        errors.append(field.not_supported(path.child("action"), action, FAILURE_ACTIONS))
    elif action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
        detail = "requires the backoffLimitPerIndex to be set"
        errors.append(field.invalid(path.child("action"), action, detail))
    codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or ()
    if codes is not None:
        errors += _exit_code_errors(codes, names, path.child("onExitCodes"))
    if len(conditions) > MAX_POD_CONDITIONS:
        errors.append(field.too_many(path.child("onPodConditions"), len(conditions), MAX_POD_CONDITIONS))
        conditions = ()
    for index, pattern in enumerate(conditions):
        where = path.child("onPodConditions").index(index)
        errors += validate_label_name(pattern.get("type") or "", where.child("type"))
        status = pattern.get("status") or ""
        if status not in ("False", "True", "Unknown"):
            errors.append(field.not_supported(where.child("status"), status, ["False", "True", "Unknown"]))
    conditions = rule.get("onPodConditions") or ()
    if codes is not None and conditions:
        detail = "specifying both OnExitCodes and OnPodConditions is not supported"
        errors.append(field.invalid(path, field.OMITTED, detail))
    if codes is None and not conditions:
        detail = "specifying one of OnExitCodes and OnPodConditions is required"
        errors.append(field.invalid(path, field.OMITTED, detail))
    return errors


def _exit_code_errors(codes: Json, names: set[Any], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    operator, values = codes.get("operator") or "", list(codes.get("values") or ())
    if operator not in ("In", "NotIn"):
        if not operator:
            errors.append(field.required(path.child("operator"), 'valid values: ["In" "NotIn"]'))
        else:
            errors.append(field.not_supported(path.child("operator"), operator, ["In", "NotIn"]))
    container = codes.get("containerName")
    if container is not None and container not in names:
        errors.append(
            field.invalid(
                path.child("containerName"),
                container,
                "must be one of the container or initContainer names in the pod template",
            )
        )
    where = path.child("values")
    if not values:
        errors.append(field.invalid(where, codes.get("values"), "at least one value is required"))
    elif len(values) > MAX_EXIT_CODES:
        errors.append(field.too_many(where, len(values), MAX_EXIT_CODES))
    if values != sorted(values):
        errors.append(field.invalid(where, values, "must be ordered"))
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            errors.append(field.invalid(where.index(index), value, "must not be 0 for the In operator"))
        if value in values[:index]:
            errors.append(field.duplicate(where.index(index), value))
    return errors


def _success_policy_errors(spec: Json, path: Path) -> list[FieldError]:
    policy = spec.get("successPolicy")
    if policy is None:
        return []
    where = path.child("successPolicy")
    errors: list[FieldError] = []
    if spec.get("completionMode") != "Indexed":
        detail = "requires indexed completion mode"
        return [field.invalid(where, internal_form("SuccessPolicy", policy), detail)]
    rules = policy.get("rules") or ()
    if not rules:
        errors.append(
            field.required(
                where.child("rules"), "at least one rules must be specified when the successPolicy is specified"
            )
        )
    if len(rules) > MAX_FAILURE_RULES:
        return [*errors, field.too_many(where.child("rules"), len(rules), MAX_FAILURE_RULES)]
    for index, rule in enumerate(rules):
        errors += _success_rule_errors(rule, spec.get("completions") or 0, where.child("rules").index(index))
    return errors


def _success_rule_errors(rule: Json, completions: int, path: Path) -> list[FieldError]:
    count, indexes = rule.get("succeededCount"), rule.get("succeededIndexes")
    if count is None and indexes is None:
        detail = "at least one of succeededCount or succeededIndexes must be specified"
        return [field.required(path, detail)]
    errors: list[FieldError] = []
    total = 0
    if indexes is not None:
        total, problem = count_indexes(indexes, completions)
        if problem:
            detail = f"error parsing succeededIndexes: {problem}"
            errors.append(field.invalid(path.child("succeededIndexes"), indexes, detail))
    if count is None:
        return errors
    where = path.child("succeededCount")
    errors += validate_non_negative(count, where)
    if count > completions:
        detail = f"must be less than or equal to {completions} (the number of specified completions)"
        errors.append(field.invalid(where, count, detail))
    if indexes is not None and count > total:
        detail = (
            f"must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        )
        errors.append(field.invalid(where, count, detail))
    return errors


def count_indexes(text: str, completions: int) -> tuple[int, str]:
    """How many indexes `0,2-4` names, and what is wrong with it, or "": they rise and stay in the job."""
    total, last = 0, -1
    for fragment in text.split(",") if text else ():
        parts = fragment.split("-")
        if len(parts) > 2:
            rule = "violates the requirement that an index interval can have at most two parts separated by '-'"
            return 0, f"the fragment {field.quote(fragment)} {rule}"
        start = last
        for place, part in enumerate(parts):
            if not part.isdecimal():
                return 0, f"cannot convert string to integer for index: {field.quote(part)}"
            index = int(part)
            if index >= completions:
                return 0, f"too large index: {field.quote(part)}"
            if index <= last:
                return 0, f"non-increasing order, previous: {last}, current: {index}"
            total += 1 if not place else index - start
            last = start = index
    return total, ""


def _replacement_errors(spec: Json, path: Path) -> list[FieldError]:
    policy = spec.get("podReplacementPolicy")
    where = path.child("podReplacementPolicy")
    if policy is None:
        return []
    if spec.get("podFailurePolicy") is not None:
        return [] if policy == "Failed" else [field.not_supported(where, policy, ["Failed"])]
    if policy not in ("Failed", "TerminatingOrFailed"):
        return [field.not_supported(where, policy, ["Failed", "TerminatingOrFailed"])]
    return []


def _restart_errors(spec: Json, template: Json, path: Path) -> list[FieldError]:
    policy = (template.get("spec") or {}).get("restartPolicy") or ""
    where = path.child("template", "spec", "restartPolicy")
    if policy in ("", "Always"):
        return [field.required(where, 'valid values: "OnFailure", "Never"')]
    if policy not in ("OnFailure", "Never"):
        return [field.not_supported(where, policy, ["OnFailure", "Never"])]
    if spec.get("podFailurePolicy") is not None and policy != "Never":
        detail = 'only "Never" is supported when podFailurePolicy is specified'
        return [field.invalid(where, policy, detail)]
    return []


def validate_job_update(spec: Json, known: Json, status: Json) -> list[FieldError]:
    """What changed that may not."""
    errors = _completions_errors(spec, known)
    if spec.get("selector") != known.get("selector"):
        value = {key: one for key, one in (spec.get("selector") or {}).items() if one}
        errors.append(field.invalid(SPEC.child("selector"), value, IMMUTABLE))
    errors += _template_errors(spec, known, status)
    for name, kind in (("completionMode", ""), ("podFailurePolicy", "PodFailurePolicy")):
        errors += _same(spec, known, name, kind)
    for name, kind in (("backoffLimitPerIndex", ""), ("managedBy", ""), ("successPolicy", "SuccessPolicy")):
        errors += _same(spec, known, name, kind)
    return errors


def _same(spec: Json, known: Json, name: str, kind: str) -> list[FieldError]:
    value = spec.get(name)
    if value == known.get(name):
        return []
    shown = internal_form(kind, value) if kind and value is not None else value
    return [field.invalid(SPEC.child(name), shown, IMMUTABLE)]


def _completions_errors(spec: Json, known: Json) -> list[FieldError]:
    """An indexed job may grow or shrink, if completions and parallelism go together."""
    now, before = spec.get("completions"), known.get("completions")
    if now == before:
        return []
    where = SPEC.child("completions")
    if spec.get("completionMode") != "Indexed":
        return [field.invalid(where, now, IMMUTABLE)]
    if now != spec.get("parallelism"):
        detail = "can only be modified in tandem with spec.parallelism"
        return [field.invalid(where, now, detail)]
    return []


def _template_errors(spec: Json, known: Json, status: Json) -> list[FieldError]:
    template: Json = spec.get("template") or {}
    before: Json = known.get("template") or {}
    if template == before:
        return []
    suspended = bool(known.get("suspend")) and not status.get("startTime")
    if not suspended:
        return [field.invalid(SPEC.child("template"), template_form(template), IMMUTABLE)]
    munged: Object = deepcopy(dict(template))
    metadata = dict(munged.get("metadata") or {})
    for name in ("labels", "annotations"):
        _take(metadata, before.get("metadata") or {}, name)
    pod: Object = munged.get("spec") or {}
    old_pod: Json = before.get("spec") or {}
    for name in MUTABLE_WHILE_SUSPENDED:
        _take(pod, old_pod, name)
    _take_node_affinity(pod, old_pod)
    _take_resources(pod.get("containers") or (), old_pod.get("containers") or ())
    _take_resources(pod.get("initContainers") or (), old_pod.get("initContainers") or ())
    if pod == old_pod:
        return []
    return [
        field.invalid(SPEC.child("template", "spec"), internal_form("PodSpec", template.get("spec") or {}), IMMUTABLE)
    ]


def _take(target: Object, source: Json, name: str) -> None:
    if name in source:
        target[name] = deepcopy(source[name])
    else:
        target.pop(name, None)


def _take_node_affinity(pod: Object, old_pod: Json) -> None:
    affinity = dict(pod.get("affinity") or {})
    _take(affinity, old_pod.get("affinity") or {}, "nodeAffinity")
    if affinity or old_pod.get("affinity") is not None:
        pod["affinity"] = affinity
    else:
        pod.pop("affinity", None)


def _take_resources(containers: Sequence[Object], known: Sequence[Json]) -> None:
    if len(containers) != len(known):
        return
    for container, before in zip(containers, known, strict=True):
        _take(container, before, "resources")
