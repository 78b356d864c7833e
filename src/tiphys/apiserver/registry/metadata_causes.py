"""How often an update's answer repeats the causes about metadata.

Upstream judges the metadata of an update for every kind, and again in the validation of each kind, which mostly calls
the validation of new objects as well: every call adds its causes, and only the message leaves out what it has said.
Source: observed answers of the v1.36 API server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from tiphys.machinery.field import FieldError


class Repeats(NamedTuple):
    """Times for labels, annotations and owners; for finalizers that are no names; for finalizers without a domain."""

    fields: int = 3
    finalizers: int = 1
    unknown_finalizers: int = 1


USUAL: Final = Repeats()
_AGAIN: Final = Repeats(4, 2, 2)
_LISTED: Final = Repeats(3, 2, 1)
_FREE: Final = Repeats(3, 2, 0)  # finalizers may be any name

REPEATS: Final = {
    **dict.fromkeys(
        (
            ("", "configmaps"),
            ("", "endpoints"),
            ("", "namespaces"),
            ("", "nodes"),
            ("", "persistentvolumeclaims"),
            ("", "pods"),
            ("", "secrets"),
            ("", "serviceaccounts"),
            ("apps", "controllerrevisions"),
            ("batch", "jobs"),
            ("certificates.k8s.io", "certificatesigningrequests"),
            ("networking.k8s.io", "ingressclasses"),
            ("networking.k8s.io", "ingresses"),
            ("rbac.authorization.k8s.io", "clusterrolebindings"),
            ("rbac.authorization.k8s.io", "clusterroles"),
            ("rbac.authorization.k8s.io", "rolebindings"),
            ("rbac.authorization.k8s.io", "roles"),
            ("resource.k8s.io", "deviceclasses"),
            ("resource.k8s.io", "resourceclaims"),
            ("resource.k8s.io", "resourceclaimtemplates"),
            ("storage.k8s.io", "csistoragecapacities"),
            ("storage.k8s.io", "storageclasses"),
            ("storage.k8s.io", "volumeattributesclasses"),
        ),
        _AGAIN,
    ),
    **dict.fromkeys(
        (
            ("", "limitranges"),
            ("discovery.k8s.io", "endpointslices"),
            ("flowcontrol.apiserver.k8s.io", "flowschemas"),
            ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
            ("storage.k8s.io", "csinodes"),
            ("storage.k8s.io", "volumeattachments"),
        ),
        _LISTED,
    ),
    **dict.fromkeys(
        (
            ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
            ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
            ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
            ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
            ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
            ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
        ),
        _FREE,
    ),
    ("", "persistentvolumes"): Repeats(4, 3, 2),
    ("apiregistration.k8s.io", "apiservices"): Repeats(4, 2, 0),
    ("coordination.k8s.io", "leases"): Repeats(3, 1, 0),
    ("node.k8s.io", "runtimeclasses"): Repeats(4, 2, 0),
    ("policy", "poddisruptionbudgets"): Repeats(2, 1, 0),
    ("", "events"): Repeats(2, 2, 0),
    ("events.k8s.io", "events"): Repeats(2, 1, 0),  # and what its own rules find
}
# Where a write of the status says it in another number than the usual.
STATUS_REPEATS: Final = {
    ("batch", "cronjobs"): Repeats(2, 1, 0),
    ("certificates.k8s.io", "certificatesigningrequests"): _AGAIN,
    ("policy", "poddisruptionbudgets"): Repeats(2, 1, 0),
}
_FIELDS: Final = ("metadata.labels", "metadata.annotations", "metadata.ownerReferences")


def repeated(errors: Iterable[FieldError], key: tuple[str, str], *, status: bool) -> list[FieldError]:
    """The errors of an object's metadata as often as an update of `key` (group, plural), or of its status, has them."""
    times = (STATUS_REPEATS if status else REPEATS).get(key, USUAL)
    found: list[FieldError] = []
    for error in errors:
        count = 1
        if error.field.startswith(_FIELDS):
            count = times.fields
        elif error.field.startswith("metadata.finalizers["):
            count = times.unknown_finalizers
        elif error.field == "metadata.finalizers" and error.type == "FieldValueInvalid":
            count = times.finalizers
        found += [error] * count
    return found
