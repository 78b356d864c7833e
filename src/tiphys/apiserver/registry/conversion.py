"""Versions: which one a resource is stored in, and how the others are made from it.

Most versions have one shape; the few that do not have a small explicit conversion here. A kind is stored once, also
when two groups serve it (events).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tiphys.api.table import Resource, resource_by_path
from tiphys.apiserver.registry.conversions.autoscaling import HorizontalPodAutoscalerV1
from tiphys.apiserver.registry.conversions.events import EventsV1
from tiphys.apiserver.registry.resources import Conversion


def _known(group: str, version: str, plural: str) -> Resource:
    found = resource_by_path(group, version, plural)
    assert found is not None, (group, version, plural)
    return found


# Where objects of a resource are stored, when that is not the resource's only or first served version.
STORAGE_VERSIONS: Final[Mapping[tuple[str, str], Resource]] = {
    ("events.k8s.io", "events"): _known("", "v1", "events"),
    ("autoscaling", "horizontalpodautoscalers"): _known("autoscaling", "v2", "horizontalpodautoscalers"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"): _known(
        "admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies"
    ),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"): _known(
        "admissionregistration.k8s.io", "v1", "mutatingadmissionpolicybindings"
    ),
    ("networking.k8s.io", "ipaddresses"): _known("networking.k8s.io", "v1", "ipaddresses"),
    ("networking.k8s.io", "servicecidrs"): _known("networking.k8s.io", "v1", "servicecidrs"),
    ("storage.k8s.io", "volumeattributesclasses"): _known("storage.k8s.io", "v1", "volumeattributesclasses"),
    ("resource.k8s.io", "deviceclasses"): _known("resource.k8s.io", "v1", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"): _known("resource.k8s.io", "v1", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"): _known("resource.k8s.io", "v1", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"): _known("resource.k8s.io", "v1", "resourceslices"),
}

# By (group, version, plural) of the served version.
CONVERSIONS: Final[Mapping[tuple[str, str, str], Conversion]] = {
    ("autoscaling", "v1", "horizontalpodautoscalers"): HorizontalPodAutoscalerV1(),
    ("events.k8s.io", "v1", "events"): EventsV1(),
}


def conversion_for(served: Resource, storage: Resource) -> Conversion | None:
    """The conversion between a served and the storage version; None when both have one shape."""
    if served.gvk == storage.gvk:
        return None
    return CONVERSIONS.get((served.group, served.version, served.plural))
