"""CronJobs. https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final
from zoneinfo import available_timezones

from tiphys.apiserver.registry.apps.common import selector_form
from tiphys.apiserver.registry.batch.cron_schedule import schedule_error
from tiphys.apiserver.registry.batch.job_validation import job_fields_errors
from tiphys.apiserver.registry.defaults.pod import default_pod_template
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, GarbageCollection, Object, age
from tiphys.apiserver.registry.tables import NONE, containers_and_images, selector_text, since
from tiphys.apiserver.registry.validation.meta import validate_non_negative
from tiphys.apiserver.registry.validation.pod_warnings import name_warnings, pod_warnings
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.formats import max_length

SPEC: Final = Path("spec")
JOB: Final = SPEC.child("jobTemplate", "spec")
# A job's name is the CronJob's with a dash and ten digits, and names of pods end at 63.
MAX_NAME: Final = 52
CONCURRENCY: Final = ("Allow", "Forbid", "Replace")
IN_SCHEDULE: Final = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"


class CronJobStrategy(StatusStrategy):
    """Rules of cron jobs."""

    pod_spec = ("spec", "jobTemplate", "spec", "template", "spec")

    garbage_collection: ClassVar[GarbageCollection] = GarbageCollection.BACKGROUND

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if not spec.get("concurrencyPolicy"):
            spec["concurrencyPolicy"] = "Allow"
        for name, value in (("suspend", False), ("successfulJobsHistoryLimit", 3), ("failedJobsHistoryLimit", 1)):
            if spec.get(name) is None:
                spec[name] = value
        default_pod_template(((spec.get("jobTemplate") or {}).get("spec") or {}).get("template"))

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = _schedule_errors(spec) + _zone_errors(spec)
        if spec.get("startingDeadlineSeconds") is not None:
            errors += validate_non_negative(spec["startingDeadlineSeconds"], SPEC.child("startingDeadlineSeconds"))
        policy = spec.get("concurrencyPolicy") or ""
        if policy not in CONCURRENCY:
            where = SPEC.child("concurrencyPolicy")
            errors.append(field.not_supported(where, policy, CONCURRENCY) if policy else field.required(where, ""))
        job = (spec.get("jobTemplate") or {}).get("spec") or {}
        errors += _job_errors(job)
        for name in ("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
            if spec.get(name) is not None:
                errors += validate_non_negative(spec[name], SPEC.child(name))
        return _long_name_errors(obj) + errors

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        spec = spec_of(obj)
        found = name_warnings(obj["metadata"]) if old is None else []
        if "TZ" in (spec.get("schedule") or ""):
            found.append("spec.schedule: " + IN_SCHEDULE)
        template = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template") or {}
        known = ((spec_of(old).get("jobTemplate") or {}).get("spec") or {}).get("template") or {} if old else None
        if template != known:
            path = JOB.child("template")
            metadata = template.get("metadata") or {}
            found += pod_warnings(template.get("spec") or {}, metadata, path.child("spec"), path.child("metadata"))
        return found

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec, status = spec_of(obj), status_of(obj)
        job = (spec.get("jobTemplate") or {}).get("spec") or {}
        containers, images = containers_and_images((job.get("template") or {}).get("spec") or {})
        last = status.get("lastScheduleTime")
        return [
            name_of(obj),
            spec.get("schedule") or "",
            spec.get("timeZone") or NONE,
            "True" if spec.get("suspend") else "False",
            len(status.get("active") or ()),
            since(last, now) if last else NONE,
            age(obj, now),
            containers,
            images,
            selector_text(job.get("selector")),
        ]


def _long_name_errors(obj: Object) -> list[FieldError]:
    name = name_of(obj)
    if len(name) <= MAX_NAME:
        return []
    return [field.invalid(Path("metadata").child("name"), name, max_length(MAX_NAME))]


def _schedule_errors(spec: Object) -> list[FieldError]:
    schedule = spec.get("schedule") or ""
    where = SPEC.child("schedule")
    if not schedule:
        return [field.required(where, "")]
    errors: list[FieldError] = []
    problem = schedule_error(schedule)
    if problem:
        errors.append(field.invalid(where, schedule, problem))
    if "TZ" in schedule and not problem:
        errors.append(field.invalid(where, schedule, IN_SCHEDULE))
    return errors


def _zone_errors(spec: Object) -> list[FieldError]:
    zone = spec.get("timeZone")
    where = SPEC.child("timeZone")
    if zone is None:
        return []
    if not zone:
        return [field.invalid(where, zone, "timeZone must be nil or non-empty string")]
    if zone.lower() == "local":
        detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        return [field.invalid(where, zone, detail)]
    if zone not in available_timezones():
        return [field.invalid(where, zone, f"unknown time zone {zone}")]
    return []


def _job_errors(job: Object) -> list[FieldError]:
    errors = job_fields_errors(job, JOB)
    if job.get("selector") is not None:
        detail = "`selector` will be auto-generated"
        errors.append(field.invalid(JOB.child("selector"), selector_form(job["selector"]), detail))
    if job.get("manualSelector"):
        errors.append(field.not_supported(JOB.child("manualSelector"), True, ["nil", "false"]))
    return errors
