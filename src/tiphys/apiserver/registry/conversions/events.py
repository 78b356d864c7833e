"""events.k8s.io/v1 Event over the stored core/v1 Event: the same facts under other names.

https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Object = dict[str, Any]

# events.k8s.io/v1 name, core/v1 name; all other fields have one name.
NAMES: Final = (
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
)
REFERENCE_FIELDS: Final = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


def _rename(obj: Object, names: tuple[tuple[str, str], ...]) -> Object:
    for old, new in names:
        if old in obj:
            obj[new] = obj.pop(old)
    return obj


class EventsV1:
    """See the module."""

    field_labels: Mapping[str, str] = {
        **{f"regarding.{name}": f"involvedObject.{name}" for name in REFERENCE_FIELDS},
        "reportingController": "reportingComponent",
    }

    def to_storage(self, obj: Object) -> Object:
        """To core/v1."""
        return _rename(obj, NAMES)

    def from_storage(self, obj: Object) -> Object:
        """To events.k8s.io/v1."""
        return _rename(obj, tuple((new, old) for old, new in NAMES))
