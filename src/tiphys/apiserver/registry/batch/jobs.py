"""Jobs: the selector and the labels they are made to own their pods by, and what may change while they run.

https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.batch.job_validation import validate_job_spec, validate_job_update
from tiphys.apiserver.registry.defaults.pod import default_pod_template
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, GarbageCollection, Object, RequestContext, age
from tiphys.apiserver.registry.tables import condition, containers_and_images, selector_text
from tiphys.apiserver.registry.validation.pod_warnings import name_warnings, pod_warnings
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.time import human_duration, parse_rfc3339

SPEC: Final = Path("spec")
UID_LABEL: Final = "batch.kubernetes.io/controller-uid"
NAME_LABEL: Final = "batch.kubernetes.io/job-name"
OLD_UID_LABEL: Final = "controller-uid"
OLD_NAME_LABEL: Final = "job-name"
UNLIMITED: Final = 2147483647


class JobStrategy(StatusStrategy):
    """Rules of jobs."""

    pod_spec = ("spec", "template", "spec")

    garbage_collection: ClassVar[GarbageCollection] = GarbageCollection.ORPHAN

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if spec.get("completions") is None and spec.get("parallelism") is None:
            spec["completions"] = spec["parallelism"] = 1
        if spec.get("parallelism") is None:
            spec["parallelism"] = 1
        if spec.get("backoffLimit") is None:
            spec["backoffLimit"] = 6 if spec.get("backoffLimitPerIndex") is None else UNLIMITED
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
        metadata = obj.setdefault("metadata", {})
        if labels and not metadata.get("labels"):
            metadata["labels"] = dict(labels)
        for name, value in (("completionMode", "NonIndexed"), ("suspend", False), ("manualSelector", False)):
            if spec.get(name) is None:
                spec[name] = value
        if spec.get("podReplacementPolicy") is None:
            spec["podReplacementPolicy"] = "TerminatingOrFailed" if spec.get("podFailurePolicy") is None else "Failed"
        for rule in (spec.get("podFailurePolicy") or {}).get("rules") or ():
            for pattern in rule.get("onPodConditions") or ():
                if not pattern.get("status"):
                    pattern["status"] = "True"
        default_pod_template(spec.get("template"))

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        if not spec_of(obj).get("manualSelector"):
            _own_pods(obj)

    def validate(self, obj: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        if obj["spec"].get("manualSelector") is not True:
            errors += _generated_errors(obj)
        return errors + validate_job_spec(spec_of(obj), SPEC)

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        # The spec is judged twice, and both times reported, as upstream does.
        errors = self.validate(new) + validate_job_spec(spec_of(new), SPEC)
        return errors + validate_job_update(spec_of(new), spec_of(old), status_of(old))

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        status = status_of(new)
        errors: list[FieldError] = []
        for name in ("active", "succeeded", "failed", "ready", "terminating"):
            if (status.get(name) or 0) < 0:
                detail = "must be greater than or equal to 0"
                errors.append(field.invalid(Path("status").child(name), status.get(name) or 0, detail))
        return errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        found = name_warnings(obj["metadata"]) if old is None else []
        template = spec_of(obj).get("template") or {}
        if old is None or template != (spec_of(old).get("template") or {}):
            path = SPEC.child("template")
            metadata = template.get("metadata") or {}
            found += pod_warnings(template.get("spec") or {}, metadata, path.child("spec"), path.child("metadata"))
        return found

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return super().selectable_fields(obj) | {"status.successful": str(status_of(obj).get("succeeded") or 0)}

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        containers, images = containers_and_images((spec.get("template") or {}).get("spec") or {})
        return [
            name_of(obj),
            _state(obj),
            _completions(spec, status),
            _duration(status, now),
            age(obj, now),
            containers,
            images,
            selector_text(spec.get("selector")),
        ]


def _own_pods(job: Object) -> None:
    """Labels of the template and a selector that no other job has."""
    spec, metadata = job["spec"], job["metadata"]
    template = spec.setdefault("template", {})
    template_meta = template.setdefault("metadata", {})
    name, uid = metadata.get("name", ""), metadata["uid"]
    labels = dict(template_meta.get("labels") or {})
    for key, value in ((OLD_NAME_LABEL, name), (NAME_LABEL, name), (OLD_UID_LABEL, uid), (UID_LABEL, uid)):
        labels.setdefault(key, value)
    template_meta["labels"] = labels
    if not metadata.get("labels"):
        # Without labels of its own a job has those of its template.
        metadata["labels"] = dict(labels)
    selector = spec.get("selector") or {}
    spec["selector"] = {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), UID_LABEL: uid}}


def _generated_errors(job: Object) -> list[FieldError]:
    """Without a selector of its own a job has exactly the generated one."""
    uid = job["metadata"].get("uid", "")
    labels: dict[str, Any] = (spec_of(job).get("selector") or {}).get("matchLabels") or {}
    if labels.get(UID_LABEL) == uid:
        return []
    value = {key: one for key, one in (spec_of(job).get("selector") or {}).items() if one}
    return [field.invalid(SPEC.child("selector"), value, "`selector` not auto-generated")]


def _state(job: Object) -> str:
    for kind, word in (("Complete", "Complete"), ("Failed", "Failed")):
        found = condition(job, kind)
        if found is not None and found.get("status") == "True":
            return word
    if job["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for kind, word in (
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ):
        found = condition(job, kind)
        if found is not None and found.get("status") == "True":
            return word
    return "Running"


def _completions(spec: Object, status: Object) -> str:
    succeeded = status.get("succeeded") or 0
    if spec.get("completions") is not None:
        return f"{succeeded}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _duration(status: Object, now: datetime) -> str:
    started = status.get("startTime")
    if not started:
        return ""
    ended = status.get("completionTime")
    return human_duration((parse_rfc3339(ended) if ended else now) - parse_rfc3339(started))
