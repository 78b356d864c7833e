"""An APIService for each group and version that custom resources are served in, made and removed with them.

Those carry the label kube-aggregator.kubernetes.io/automanaged; one without it is somebody's own and is left alone,
so that a group can be moved from custom resources to an extension server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

from tiphys.apiserver.aggregator.apiservices import GROUP, PLURAL
from tiphys.apiserver.bootstrap.writer import SERVER, Writer
from tiphys.apiserver.registry.options import DeleteOptions
from tiphys.apiserver.registry.resources import ResourceMap
from tiphys.apiserver.registry.store import NoAdmission
from tiphys.apiserver.registry.strategy import Reader, RequestContext
from tiphys.machinery.errors import NotFoundError

LABEL: Final = "kube-aggregator.kubernetes.io/automanaged"
GROUP_PRIORITY: Final = 1000
VERSION_PRIORITY: Final = 100
CRD: Final = ("apiextensions.k8s.io", "customresourcedefinitions")

Object = dict[str, Any]


def registration(group: str, version: str) -> Object:
    """The APIService of a group and version of custom resources."""
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}", "labels": {LABEL: "true"}},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": GROUP_PRIORITY,
            "versionPriority": VERSION_PRIORITY,
        },
    }


def wanted(definitions: Iterable[Mapping[str, Any]]) -> dict[str, Object]:
    """The APIServices there should be, by name."""
    found = {}
    for definition in definitions:
        spec = definition["spec"]
        for version in spec["versions"]:
            if version.get("served"):
                one = registration(spec["group"], version["name"])
                found[one["metadata"]["name"]] = one
    return found


def managed(obj: Mapping[str, Any]) -> bool:
    """Whether an APIService is kept by this module."""
    return (obj["metadata"].get("labels") or {}).get(LABEL) == "true"


async def synchronize(resources: ResourceMap, reader: Reader, writer: Writer, now: datetime) -> None:
    """Make the APIServices that are missing, mend those that differ, delete those nobody needs."""
    target = wanted(reader.list(*CRD))
    present = {one["metadata"]["name"]: one for one in reader.list(GROUP, PLURAL)}
    for name, one in target.items():
        found = present.get(name)
        if found is None:
            await writer.create(GROUP, "v1", PLURAL, one)
        elif managed(found) and found["spec"] != one["spec"]:
            with suppress(NotFoundError):
                await writer.update(GROUP, "v1", PLURAL, "", name, partial(_put_spec, one["spec"]))
    for name, found in present.items():
        if managed(found) and name not in target:
            await _delete(resources, reader, name, now)


def _put_spec(spec: Object, obj: Object) -> None:
    obj["spec"] = dict(spec)


async def _delete(resources: ResourceMap, reader: Reader, name: str, now: datetime) -> None:
    store = resources.store(GROUP, PLURAL)
    if store is not None:
        ctx = RequestContext(user=SERVER, now=now, reader=reader, namespace="", name=name)
        with suppress(NotFoundError):
            await store.delete(ctx, DeleteOptions(raw={}), NoAdmission())
