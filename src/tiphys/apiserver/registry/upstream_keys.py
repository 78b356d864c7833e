"""Where upstream keeps objects in etcd: part of error messages, and of what is sealed with them.

ours    /registry/core/nodes/a      /registry/apps/deployments/ns/a     /registry/example.com/widgets/ns/a
theirs  /registry/minions/a         /registry/deployments/ns/a          /registry/example.com/widgets/ns/a
"""

from __future__ import annotations

from functools import cache
from typing import Final

from tiphys.api.table import ALL_RESOURCES
from tiphys.apiserver.watchcache import ROOT

# Built-in resources are kept under their name, but for these: some have an older name, two are custom resources'
# machinery, which keeps its own as it keeps those.
_NAMED_OTHERWISE: Final = {
    ("", "nodes"): "minions",
    ("", "services"): "services/specs",
    ("", "endpoints"): "services/endpoints",
    ("", "replicationcontrollers"): "controllers",
    ("networking.k8s.io", "ingresses"): "ingress",
    ("apiextensions.k8s.io", "customresourcedefinitions"): "apiextensions.k8s.io/customresourcedefinitions",
    ("apiregistration.k8s.io", "apiservices"): "apiregistration.k8s.io/apiservices",
}
# Served under a second name, or not stored: their names would lead to the wrong place.
_NOT_STORED: Final = frozenset({("events.k8s.io", "events"), ("extensions", "ingresses")})
_BUILT_IN: Final = frozenset((resource.group, resource.plural) for resource in ALL_RESOURCES)


@cache
def upstream_place(group: str, plural: str) -> str:
    """What stands between /registry/ and an object's own part of the key."""
    if (group, plural) in _BUILT_IN:
        return _NAMED_OTHERWISE.get((group, plural), plural)
    return f"{group}/{plural}"


def upstream_key(key: str) -> str:
    """Upstream's key for one of ours, as long as it is an object's; other keys stay as they are."""
    parts = key[len(ROOT) :].split("/", 2) if key.startswith(ROOT) else ()
    if len(parts) < 3:
        return key
    group, plural, own = parts
    return f"{ROOT}{upstream_place('' if group == 'core' else group, plural)}/{own}"


def layout() -> dict[str, str]:
    """Beginnings of keys, ours to theirs: where objects of built-in resources are in an etcd that upstream can read."""
    places = {}
    for group, plural in _BUILT_IN:
        ours, theirs = f"{ROOT}{group or 'core'}/{plural}/", f"{ROOT}{upstream_place(group, plural)}/"
        if ours != theirs and (group, plural) not in _NOT_STORED:
            places[ours] = theirs
    return places
