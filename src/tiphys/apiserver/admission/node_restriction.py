"""NodeRestriction: a kubelet writes its own Node, the status of its own pods, and nothing of another node.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.admission.base import AdmissionPlugin, name_of, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.apiserver.authz.node import node_of
from tiphys.machinery.errors import not_found
from tiphys.machinery.meta import GroupResource, ObjectName

MIRROR: Final = "kubernetes.io/config.mirror"
RESTRICTED_LABELS: Final = "node-restriction.kubernetes.io"
# Labels below kubernetes.io and k8s.io that a kubelet may set on its node.
KUBELET_LABELS: Final = frozenset(
    {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    }
)
KUBELET_PREFIXES: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")


class NodeRestriction(AdmissionPlugin):
    """Looks at writes by kubelets only."""

    name = "NodeRestriction"

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return attributes.operation is not Operation.CONNECT

    async def admit(self, attributes: AdmissionAttributes) -> None:
        node = node_of(attributes.user)
        if node is None:
            return
        group, resource = attributes.resource.group, attributes.resource.resource
        if group == "" and resource == "pods":
            self._pod(node, attributes)
        elif group == "" and resource == "nodes":
            self._node(node, attributes)
        elif group == "" and resource == "serviceaccounts" and attributes.subresource == "token":
            self._token(node, attributes)
        elif group == "coordination.k8s.io" and resource == "leases":
            self._lease(node, attributes)
        elif group == "storage.k8s.io" and resource == "csinodes" and name_of(attributes) != node:
            raise refuse(attributes, "can only access CSINode with the same name as the requesting node")
        elif group == "resource.k8s.io" and resource == "resourceslices":
            self._slice(node, attributes)

    # -- pods --------------------------------------------------------------------------------------

    def _pod(self, node: str, attributes: AdmissionAttributes) -> None:
        subresource = attributes.subresource
        if subresource == "status":
            self._pod_status(node, attributes)
        elif subresource == "eviction":
            self._eviction(node, attributes)
        elif subresource:
            raise refuse(
                attributes, f'unexpected pod subresource "{subresource}", only "status" and "eviction" are allowed'
            )
        elif attributes.operation is Operation.CREATE:
            self._mirror_pod(node, attributes)
        elif attributes.operation is Operation.DELETE:
            pod = attributes.old_object or self.reader.get(
                "", "pods", ObjectName(attributes.namespace, attributes.name)
            )
            if pod is not None and pod.get("spec", {}).get("nodeName") != node:
                raise refuse(attributes, f'node "{node}" can only delete pods with spec.nodeName set to itself')
        else:
            raise refuse(attributes, f'unexpected operation "{attributes.operation.value}"')

    def _mirror_pod(self, node: str, attributes: AdmissionAttributes) -> None:
        pod = attributes.object or {}
        metadata, spec = pod.get("metadata", {}), pod.get("spec", {})
        if MIRROR not in (metadata.get("annotations") or {}):
            message = f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods'
            raise refuse(attributes, message)
        if spec.get("nodeName") != node:
            raise refuse(attributes, f'node "{node}" can only create pods with spec.nodeName set to itself')
        self._mirror_owner(node, attributes, metadata.get("ownerReferences") or [])
        if spec.get("serviceAccountName"):
            message = f'node "{node}" can not create pods that reference a service account'
            raise refuse(attributes, message)
        for volume in spec.get("volumes") or ():
            for kind, words in (("secret", "secrets"), ("configMap", "configmaps")):
                if kind in volume:
                    raise refuse(attributes, f'node "{node}" can not create pods that reference {words}')
            if "persistentVolumeClaim" in volume:
                message = f'node "{node}" can not create pods that reference persistentvolumeclaims'
                raise refuse(attributes, message)

    def _mirror_owner(self, node: str, attributes: AdmissionAttributes, owners: Sequence[Mapping[str, Any]]) -> None:
        """A mirror pod belongs to its node, so that it goes when the node does."""
        if len(owners) > 1:
            message = f'node "{node}" can only create pods with a single owner reference set to itself'
            raise refuse(attributes, message)
        owner = owners[0] if owners else {}
        if (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) != ("v1", "Node", node):
            message = f'node "{node}" can only create pods with an owner reference set to itself'
            raise refuse(attributes, message)
        if not owner.get("controller"):
            message = f'node "{node}" can only create pods with a controller owner reference set to itself'
            raise refuse(attributes, message)
        if owner.get("blockOwnerDeletion"):
            raise refuse(attributes, f'node "{node}" must not set blockOwnerDeletion on an owner reference')
        found = self.reader.get("", "nodes", ObjectName("", node))
        if found is None:
            raise not_found(GroupResource("", "nodes"), node)
        uid = found["metadata"].get("uid")
        if uid != owner.get("uid"):
            raise refuse(attributes, f"node {node} UID mismatch: expected {owner.get('uid')} got {uid}")

    def _pod_status(self, node: str, attributes: AdmissionAttributes) -> None:
        old, new = attributes.old_object or {}, attributes.object or {}
        if old.get("spec", {}).get("nodeName") != node:
            message = f'node "{node}" can only update pod status for pods with spec.nodeName set to itself'
            raise refuse(attributes, message)
        if (old["metadata"].get("labels") or {}) != (new.get("metadata", {}).get("labels") or {}):
            raise refuse(attributes, f'node "{node}" cannot update labels through pod status')
        if old.get("status", {}).get("resourceClaimStatuses") != new.get("status", {}).get("resourceClaimStatuses"):
            raise refuse(attributes, f'node "{node}" cannot update resource claim statuses')
        extended = "extendedResourceClaimStatus"
        if old.get("status", {}).get(extended) != new.get("status", {}).get(extended):
            raise refuse(attributes, f'node "{node}" cannot update extended resource claim status')

    def _eviction(self, node: str, attributes: AdmissionAttributes) -> None:
        if attributes.operation is not Operation.CREATE:
            raise refuse(attributes, f"unexpected operation {attributes.operation.value} for eviction subresource")
        pod = self.reader.get("", "pods", ObjectName(attributes.namespace, attributes.name))
        if pod is not None and pod.get("spec", {}).get("nodeName") != node:
            raise refuse(attributes, f"node {node} can only evict pods with spec.nodeName set to itself")

    # -- nodes -------------------------------------------------------------------------------------

    def _node(self, node: str, attributes: AdmissionAttributes) -> None:
        requested = name_of(attributes)
        if requested != node:
            raise refuse(attributes, f'node "{node}" is not allowed to modify node "{requested}"')
        if attributes.operation is Operation.CREATE:
            new = attributes.object or {}
            if (new.get("spec") or {}).get("configSource"):
                raise refuse(attributes, f'node "{node}" is not allowed to create pods with a non-nil configSource')
            forbidden = _forbidden_labels(new.get("metadata", {}).get("labels") or {})
            if forbidden:
                message = f'node "{node}" is not allowed to set the following labels: {", ".join(forbidden)}'
                raise refuse(attributes, message)
        elif attributes.operation is Operation.UPDATE:
            self._node_update(node, attributes)
        elif attributes.operation is Operation.DELETE:
            raise refuse(attributes, f'node "{node}" is not allowed to delete node "{requested}"')

    @staticmethod
    def _node_update(node: str, attributes: AdmissionAttributes) -> None:
        old, new = attributes.old_object or {}, attributes.object or {}
        if attributes.subresource not in ("", "status"):
            message = f'node "{node}" is not allowed to update the subresource {attributes.subresource}'
            raise refuse(attributes, message)
        source = (new.get("spec") or {}).get("configSource")
        if source is not None and source != (old.get("spec") or {}).get("configSource"):
            message = f'node "{node}" is not allowed to update configSource to a new non-nil configSource'
            raise refuse(attributes, message)
        if not attributes.subresource and old.get("spec", {}).get("taints") != new.get("spec", {}).get("taints"):
            raise refuse(attributes, f'node "{node}" is not allowed to modify taints')
        before, after = old["metadata"].get("labels") or {}, new["metadata"].get("labels") or {}
        changed = {key: "" for key in before | after if before.get(key) != after.get(key)}
        forbidden = _forbidden_labels(changed)
        if forbidden:
            raise refuse(attributes, f"is not allowed to modify labels: {', '.join(forbidden)}")
        if (old["metadata"].get("ownerReferences") or []) != (new["metadata"].get("ownerReferences") or []):
            raise refuse(attributes, f'node "{node}" is not allowed to modify ownerReferences')

    # -- the rest ----------------------------------------------------------------------------------

    def _token(self, node: str, attributes: AdmissionAttributes) -> None:
        spec: Mapping[str, Any] = (attributes.object or {}).get("spec") or {}
        bound = spec.get("boundObjectRef")
        if not bound or bound.get("apiVersion") != "v1" or bound.get("kind") != "Pod" or not bound.get("name"):
            raise refuse(attributes, "node requested token not bound to a pod")
        if not bound.get("uid"):
            raise refuse(attributes, "node requested token with a pod binding without a uid")
        pod = self.reader.get("", "pods", ObjectName(attributes.namespace, bound["name"]))
        if pod is None or pod["metadata"].get("uid") != bound["uid"]:
            found = pod["metadata"].get("uid") if pod else ""
            raise refuse(
                attributes,
                f"the UID in the bound object reference ({bound['uid']}) does not match the UID in record. "
                f"The object might have been deleted and then recreated ({found})",
            )
        if pod.get("spec", {}).get("nodeName") != node:
            raise refuse(attributes, "node requested token bound to a pod scheduled on a different node")

    @staticmethod
    def _slice(node: str, attributes: AdmissionAttributes) -> None:
        """The authorizer looks at the slices that are there; what a new one says is known only here."""
        judged = {Operation.CREATE: attributes.object, Operation.UPDATE: attributes.old_object}
        if attributes.operation not in judged:
            return
        if ((judged[attributes.operation] or {}).get("spec") or {}).get("nodeName") != node:
            verb = attributes.operation.value.lower()
            raise refuse(attributes, f"can only {verb} ResourceSlice with the same NodeName as the requesting node")

    @staticmethod
    def _lease(node: str, attributes: AdmissionAttributes) -> None:
        if attributes.namespace != "kube-node-lease":
            raise refuse(attributes, 'can only access leases in the "kube-node-lease" system namespace')
        if name_of(attributes) != node:
            raise refuse(attributes, "can only access node lease with the same name as the requesting node")


def _forbidden_labels(labels: Mapping[str, str]) -> list[str]:
    """Keys a kubelet may not set on its node: those below kubernetes.io and k8s.io that are not listed."""
    return sorted(key for key in labels if not _may_set(key))


def _may_set(key: str) -> bool:
    prefix, slash, _ = key.partition("/")
    if not slash:
        return True
    if _below(prefix, RESTRICTED_LABELS):
        return False
    if not _below(prefix, "kubernetes.io") and not _below(prefix, "k8s.io"):
        return True
    return key in KUBELET_LABELS or any(_below(prefix, allowed) for allowed in KUBELET_PREFIXES)


def _below(prefix: str, domain: str) -> bool:
    return prefix == domain or prefix.endswith(f".{domain}")
