"""Events, of the core group and of events.k8s.io: one store, two shapes.

https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object
from tiphys.apiserver.registry.tables import since
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

MAX_SHORT: Final = 128
MAX_MESSAGE: Final = 1024


class EventStrategy(TableStrategy):
    """Rules of events; what has an `eventTime` is judged by the newer, stricter ones."""

    allow_create_on_update: ClassVar[bool] = True
    strict_finalizers: ClassVar[bool] = False

    def default(self, obj: Object) -> None:
        """Fields that are always written."""
        if "regarding" in obj:
            return
        obj.setdefault("involvedObject", {})
        obj.setdefault("source", {})
        for name in ("firstTimestamp", "lastTimestamp", "eventTime"):
            obj.setdefault(name, None)
        for name in ("reportingComponent", "reportingInstance"):
            obj.setdefault(name, "")

    def validate(self, obj: Object) -> list[FieldError]:
        errors = _namespace_errors(obj)
        if obj.get("eventTime"):
            errors += strict_errors(obj, "reportingComponent")
        return errors

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        involved = obj.get("involvedObject") or obj.get("regarding") or {}
        source = (obj.get("source") or {}).get("component") or obj.get("reportingComponent") or ""
        names = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        own = {f"involvedObject.{name}": involved.get(name) or "" for name in names}
        own |= {
            "reason": obj.get("reason") or "",
            "reportingComponent": obj.get("reportingComponent") or "",
            "source": source,
            "type": obj.get("type") or "",
        }
        return super().selectable_fields(obj) | own

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        first, last, count = _times(obj)
        involved = obj.get("involvedObject") or obj.get("regarding") or {}
        kind = (involved.get("kind") or "").lower()
        target = f"{kind}/{involved['name']}" if involved.get("name") else kind
        return [
            since(last, now),
            obj.get("type") or "",
            obj.get("reason") or "",
            target,
            involved.get("fieldPath") or "",
            _source(obj),
            (obj.get("message") or obj.get("note") or "").strip(),
            since(first, now),
            count,
            name_of(obj),
        ]


class NewEventStrategy(EventStrategy):
    """Events that come through events.k8s.io: always judged by the strict rules, in that group's names."""

    def validate(self, obj: Object) -> list[FieldError]:
        # Unlike the old API this one lets an event stand elsewhere than its object, if that has a namespace.
        placed = bool((obj.get("involvedObject") or {}).get("namespace"))
        errors = [] if placed else _namespace_errors(obj)
        if not obj.get("eventTime"):
            return [*errors, field.required(Path("eventTime"), "")]
        errors += strict_errors(obj, "reportingController")
        kind = obj.get("type") or ""
        if kind not in ("Normal", "Warning"):
            errors.append(field.invalid(Path("type"), "", f"has invalid value: {kind}"))
        errors += _series_errors(obj.get("series"))
        for name in ("firstTimestamp", "lastTimestamp", "count", "source"):
            if obj.get(name):
                errors.append(field.invalid(Path(name), "", "needs to be unset"))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        """Events of old may stay as they are; only the count of a series moves."""
        if not old.get("eventTime") and not new.get("eventTime"):
            return super().validate(new)
        return self.validate(new)


def _series_errors(series: Object | None) -> list[FieldError]:
    if series is None:
        return []
    errors: list[FieldError] = []
    if (series.get("count") or 0) < 2:
        errors.append(field.invalid(Path("series").child("count"), "", "should be at least 2"))
    if not series.get("lastObservedTime"):
        errors.append(field.required(Path("series").child("lastObservedTime"), ""))
    return errors


def _namespace_errors(event: Object) -> list[FieldError]:
    """An event lives where its object does; those of cluster objects in `default`."""
    wanted = event["metadata"].get("namespace", "")
    namespace = (event.get("involvedObject") or {}).get("namespace") or ""
    where = Path("involvedObject").child("namespace")
    if not namespace and wanted in ("default", "kube-system"):
        return []
    if namespace != wanted:
        return [field.invalid(where, namespace, "does not match event.namespace")]
    return []


def strict_errors(event: Object, controller_field: str) -> list[FieldError]:
    """What an event with an `eventTime` must say: who reports, what happened, why."""
    errors: list[FieldError] = []
    controller = event.get("reportingComponent") or ""
    if not controller:
        errors.append(field.required(Path(controller_field), ""))
    errors += validate_label_name(controller, Path(controller_field))
    for name, limit in (("reportingInstance", MAX_SHORT), ("action", MAX_SHORT), ("reason", MAX_SHORT)):
        value = event.get(name) or ""
        if not value:
            errors.append(field.required(Path(name), ""))
        elif len(value) > limit:
            errors.append(field.invalid(Path(name), "", f"can have at most {limit} characters"))
    if len(event.get("message") or "") > MAX_MESSAGE:
        errors.append(field.invalid(Path("message"), "", f"can have at most {MAX_MESSAGE} characters"))
    return errors


def _times(event: Object) -> tuple[str | None, str | None, int]:
    """First seen, last seen, how often."""
    first = event.get("firstTimestamp") or event.get("deprecatedFirstTimestamp")
    last = event.get("lastTimestamp") or event.get("deprecatedLastTimestamp")
    count = event.get("count") or event.get("deprecatedCount") or 0
    series: dict[str, Any] | None = event.get("series")
    if not first:
        first = event.get("eventTime")
    if series:
        last, count = series.get("lastObservedTime"), series.get("count") or 0
    elif not last:
        last = first
    return first, last, count or 1


def _source(event: Object) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    component, host = source.get("component") or "", source.get("host") or ""
    if not component:
        component = event.get("reportingComponent") or event.get("reportingController") or ""
        host = event.get("reportingInstance") or ""
    return f"{component}, {host}" if host else component
