"""Events, of the core group and of events.k8s.io: one store, two shapes.

https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, NameRule, Object
from tiphys.apiserver.registry.tables import since
from tiphys.apiserver.registry.validation.meta import validate_label_name, validate_object_meta
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

MAX_SHORT: Final = 128
MAX_MESSAGE: Final = 1024


class EventStrategy(TableStrategy):
    """Rules of events; what has an `eventTime` is judged by the newer, stricter ones."""

    allow_create_on_update: ClassVar[bool] = True
    strict_finalizers: ClassVar[bool] = False
    name_rule: ClassVar[NameRule] = NameRule.PATH_SEGMENT
    metadata_last: ClassVar[bool] = True

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
        errors = self._common_errors(obj)
        if not obj.get("eventTime"):
            errors.append(field.required(Path("eventTime"), ""))
        kind = obj.get("type") or ""
        if kind not in ("Normal", "Warning"):
            errors.append(field.invalid(Path("type"), "", f"has invalid value: {kind}"))
        for name in ("firstTimestamp", "lastTimestamp", "count", "source"):
            if obj.get(name):
                errors.append(field.invalid(Path(name), "", "needs to be unset"))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        """Nothing but the series and the metadata changes."""
        errors = self._common_errors(new, of_old=not old.get("eventTime") and not new.get("eventTime"))
        return errors + [
            field.invalid(Path(shown), _internal(name, new.get(name)), field.IMMUTABLE)
            for name, shown in _FIXED
            if (new.get(name) or None) != (old.get(name) or None)
        ]

    def field_labels(self) -> dict[str, str]:
        return {name: value for name, value in super().field_labels().items() if name != "source"}

    @staticmethod
    def _common_errors(event: Object, *, of_old: bool = True) -> list[FieldError]:
        # Unlike the old API this one lets an event stand elsewhere than its object, if it says when it happened.
        if event.get("eventTime"):
            placed = bool((event.get("involvedObject") or {}).get("namespace"))
            errors = [] if placed else _namespace_errors(event)
            errors += strict_errors(event, "reportingController")
        else:
            errors = _namespace_errors(event) if of_old else []
        errors += validate_object_meta(event["metadata"], True, NameRule.DNS_SUBDOMAIN)
        return errors + _series_errors(event.get("series"))


# What is fixed, in the order in which it is compared (the reason twice), and by which name errors call it.
_FIXED: Final = (
    *((name, name) for name in ("involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp")),
    *((name, name) for name in ("count", "reason", "type", "eventTime", "action", "related")),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
)
_REFERENCE: Final = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


def _internal(name: str, value: Any) -> Any:
    """A field as errors show it: structs with the names and the empty parts they have inside the server."""
    if name in ("involvedObject", "related") and value is not None:
        return {_INITIALS.get(part) or _capital(part): value.get(part) or "" for part in _REFERENCE}
    if name == "source":
        return {_capital(part): (value or {}).get(part) or "" for part in ("component", "host")}
    if name == "count":
        return value or 0
    return value if value is not None or name in _TIMES else ""


_INITIALS: Final = {"uid": "UID", "apiVersion": "APIVersion"}
_TIMES: Final = frozenset({"firstTimestamp", "lastTimestamp", "eventTime", "related"})


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


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
