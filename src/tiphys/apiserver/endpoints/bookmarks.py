"""The object a bookmark carries: one of the kind that says nothing but how far the watch is.

Fields that are written even when they are empty are there, so that a client that decodes strictly can:

    {"kind":"Role","apiVersion":…,"metadata":{"resourceVersion":"7"},"rules":null}

https://kubernetes.io/docs/reference/using-api/api-concepts/#watch-bookmarks
"""

from __future__ import annotations

from typing import Any, Final

from tiphys.apiserver.registry.resources import ServedResource
from tiphys.machinery.normalize import zero

Object = dict[str, Any]

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
# What upstream makes up for whole objects of a kind, whatever they say.
MADE_UP_ANNOTATIONS: Final = {"DaemonSet": "deprecated.daemonset.template.generation"}
# Kinds whose count of replicas is a plain number in upstream's own form: absent and zero are one there.
_COUNTED: Final = frozenset({("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "StatefulSet")})
# Numbers that are written although they are zero.
_NUMBERS: Final = {("scheduling.k8s.io", "PriorityClass"): "value"}


def bookmark_metadata(revision: int, *, initial_end: bool) -> Object:
    """Metadata of a bookmark's object."""
    metadata: Object = {"resourceVersion": str(revision)}
    if initial_end:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    return metadata


def bookmark_object(served: ServedResource, revision: int, *, initial_end: bool) -> Object:
    """The whole object, in the version that is served."""
    resource, schema = served.resource, served.schema
    value: Object = {"kind": resource.kind, "apiVersion": resource.api_version}
    value["metadata"] = bookmark_metadata(revision, initial_end=initial_end)
    if resource.kind in MADE_UP_ANNOTATIONS:
        made_up = {MADE_UP_ANNOTATIONS[resource.kind]: "0"}
        value["metadata"]["annotations"] = made_up | value["metadata"].get("annotations", {})
    if schema is not None and not schema.custom:
        value |= {key: one for key, one in zero(schema).items() if key not in value}
    if (resource.group, resource.kind) in _COUNTED:
        value["spec"] = {"replicas": 0} | value["spec"]
    if (resource.group, resource.kind) in _NUMBERS:
        value[_NUMBERS[resource.group, resource.kind]] = 0
    return value
