"""NamespaceLifecycle: nothing is created in a namespace that is not there or is going away, and some stay for ever.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#namespacelifecycle
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.admission.base import AdmissionPlugin, name_of
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.machinery.errors import StatusError, forbidden, not_found, status_of
from tiphys.machinery.meta import GroupResource, ObjectName

IMMORTAL: Final = frozenset({"default", "kube-system", "kube-public"})
NAMESPACES: Final = GroupResource("", "namespaces")
# What is asked about a namespace that goes away must still be answered.
_REVIEWS: Final = frozenset({("authorization.k8s.io", "localsubjectaccessreviews")})


class NamespaceLifecycle(AdmissionPlugin):
    """Looks at every write in a namespace, and at deletions of namespaces."""

    name = "NamespaceLifecycle"

    def handles(self, attributes: AdmissionAttributes) -> bool:
        if attributes.resource.group == "" and attributes.resource.resource == "namespaces":
            return attributes.operation is Operation.DELETE
        return attributes.operation is Operation.CREATE

    async def admit(self, attributes: AdmissionAttributes) -> None:
        if attributes.operation is Operation.DELETE:
            if attributes.name in IMMORTAL:
                raise forbidden(NAMESPACES, attributes.name, "this namespace may not be deleted")
            return
        if not attributes.namespace or (attributes.resource.group, attributes.resource.resource) in _REVIEWS:
            return
        namespace = self.reader.get("", "namespaces", ObjectName("", attributes.namespace))
        if namespace is None:
            raise not_found(NAMESPACES, attributes.namespace)
        if namespace.get("status", {}).get("phase") == "Terminating" or namespace["metadata"].get("deletionTimestamp"):
            raise _terminating(attributes)


def _terminating(attributes: AdmissionAttributes) -> StatusError:
    resource = GroupResource(attributes.resource.group, attributes.resource.resource)
    message = f"unable to create new content in namespace {attributes.namespace} because it is being terminated"
    status = dict(forbidden(resource, name_of(attributes), message).status)
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {attributes.namespace} is being terminated",
        "field": "metadata.namespace",
    }
    details = {**status.get("details", {}), "causes": [cause]}
    return StatusError.from_status(status_of(403, "Forbidden", status["message"], details))
