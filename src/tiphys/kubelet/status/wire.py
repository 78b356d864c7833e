"""A PodStatus as JSON, and the strategic merge patch from one to the next.

Go writes some fields even when they are zero (`ready: false`, `exitCode: 0`); clients and jsonpath
expressions rely on seeing them, so they are written here too.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tiphys.api.core.v1 import PodStatus
from tiphys.kubelet.status.conditions import PASSING

Json = dict[str, Any]

_ALWAYS: Final[Json] = {
    "name": "",
    "ready": False,
    "restartCount": 0,
    "image": "",
    "imageID": "",
    "state": {},
    "lastState": {},
}
_CONTAINER_LISTS: Final = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
# Lists that a strategic patch merges by key, where we own every entry: replaced as a whole.
_OWNED_LISTS: Final = ("podIPs", "hostIPs")


def wire_status(status: PodStatus) -> Json:
    """The status as the API stores it."""
    document: Json = msgspec.to_builtins(status)
    for name in _CONTAINER_LISTS:
        if name in document:
            document[name] = [_container(item) for item in document[name]]
    return document


def status_patch(old: Json, new: Json) -> Json:
    """The strategic merge patch for `status` that turns `old` into `new`; empty when they are equal.

    Conditions are sent one by one (others own theirs); those that `new` lacks are left alone, but for our passing ones.
    """
    patch: Json = {}
    for name, value in new.items():
        if old.get(name) == value:
            continue
        if name == "conditions":
            known = {item["type"]: item for item in old.get(name, [])}
            patch[name] = [
                _condition(item, known.get(item["type"])) for item in value if known.get(item["type"]) != item
            ]
            gone = (known.keys() & PASSING) - {item["type"] for item in value}
            patch[name] += [{"$patch": "delete", "type": kind} for kind in sorted(gone)]
        elif name in _OWNED_LISTS and old.get(name):
            patch[name] = [{"$patch": "replace"}, *value]
        else:
            patch[name] = value
    for name in old:
        if name not in new and name != "conditions":
            patch[name] = None
    if not patch.get("conditions", True):
        del patch["conditions"]
    return patch


def _condition(item: Json, old: Json | None) -> Json:
    """One condition of the patch: what the old one had and the new one lacks must be taken away."""
    return {**item, **{name: None for name in old or {} if name not in item}}


def _container(item: Json) -> Json:
    full = {**_ALWAYS, **item}
    linux = full.get("user", {}).get("linux")
    if linux is not None:
        full["user"] = {**full["user"], "linux": {"uid": 0, "gid": 0, **linux}}
    for name in ("state", "lastState"):
        terminated = full[name].get("terminated")
        if terminated is not None:
            full[name] = {**full[name], "terminated": {"exitCode": 0, **terminated}}
    return full
