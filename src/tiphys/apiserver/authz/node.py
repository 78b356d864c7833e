"""The Node authorizer: a kubelet reads what the pods bound to its node refer to, and nothing else of that sort.

Instead of a standing graph, the question is asked the other way round: the pods of the node are
looked at (from an index kept by node name), each for a reference to the object. A node has tens of
pods, so that is microseconds, and nothing can be out of date.
https://kubernetes.io/docs/reference/access-authn-authz/node/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.apiserver.authz.rbac import PolicyRule

NODE_PREFIX: Final = "system:node:"
NODE_GROUP: Final = "system:nodes"
READ: Final = ("get", "list", "watch")
Object = Mapping[str, Any]

PodsOfNode = Callable[[str], Iterable[Object]]
Get = Callable[[str, str, str, str], Object | None]  # group, resource, namespace, name


def node_of(user: UserInfo) -> str | None:
    """The name of the node a user is the kubelet of; None when it is not one."""
    if NODE_GROUP not in user.groups or not user.name.startswith(NODE_PREFIX):
        return None
    return user.name.removeprefix(NODE_PREFIX) or None


class NodeAuthorizer:
    """Allows what a kubelet needs. `rules` are those of the role system:node, which is bound to nobody."""

    def __init__(self, pods_of_node: PodsOfNode, get: Get, rules: Sequence[PolicyRule]) -> None:
        self._pods_of_node = pods_of_node
        self._get = get
        self._rules = tuple(rules)

    def authorize(self, attributes: Attributes) -> Decision:
        node = node_of(attributes.user)
        if node is None:
            return Decision(Verdict.NO_OPINION)
        if attributes.resource_request:
            special = self._special(node, attributes)
            if special is not None:
                return special
        if any(rule.allows(attributes) for rule in self._rules):
            return Decision(Verdict.ALLOW)
        return Decision(Verdict.NO_OPINION)

    def _special(self, node: str, attributes: Attributes) -> Decision | None:
        """The resources of which a node may see only its own; None: the role's rules decide."""
        key = (attributes.api_group, attributes.resource)
        if key in (("", "secrets"), ("", "configmaps")):
            return self._referenced(node, attributes, READ)
        if key == ("", "persistentvolumeclaims"):
            verbs = ("get", "update", "patch") if attributes.subresource == "status" else ("get",)
            return self._referenced(node, attributes, verbs)
        if key in (("", "persistentvolumes"), ("resource.k8s.io", "resourceclaims")):
            return self._referenced(node, attributes, ("get",))
        if key == ("storage.k8s.io", "volumeattachments"):
            return self._referenced(node, attributes, ("get",))
        if key == ("", "serviceaccounts"):
            return self._token(node, attributes)
        if key == ("coordination.k8s.io", "leases"):
            return self._lease(node, attributes)
        if key == ("storage.k8s.io", "csinodes"):
            return self._own_name(node, attributes, "can only access CSINode with the same name as the requesting node")
        return None

    def _referenced(self, node: str, attributes: Attributes, verbs: Sequence[str]) -> Decision:
        if attributes.verb not in verbs:
            allowed = ", ".join(verbs) if len(verbs) > 1 else verbs[0]
            return Decision(Verdict.NO_OPINION, f"can only {allowed.replace(', ', '/')} resources of this type")
        if attributes.subresource and attributes.subresource != "status":
            return Decision(Verdict.NO_OPINION, "cannot get subresource")
        if not attributes.name:
            return Decision(Verdict.NO_OPINION, "No Object name found")
        if self._is_referenced(node, attributes):
            return Decision(Verdict.ALLOW)
        return Decision(Verdict.NO_OPINION, f"no relationship found between node '{node}' and this object")

    def _is_referenced(self, node: str, attributes: Attributes) -> bool:
        resource, namespace, name = attributes.resource, attributes.namespace, attributes.name
        if resource == "volumeattachments":
            found = self._get("storage.k8s.io", resource, "", name)
            return found is not None and found.get("spec", {}).get("nodeName") == node
        for pod in self._pods_of_node(node):
            if resource == "persistentvolumes":
                if self._uses_volume(pod, name):
                    return True
            elif pod["metadata"].get("namespace") == namespace and name in references(pod, resource):
                return True
        return resource == "secrets" and self._volume_secret(node, namespace, name)

    def _uses_volume(self, pod: Object, name: str) -> bool:
        namespace = pod["metadata"].get("namespace", "")
        for claim in references(pod, "persistentvolumeclaims"):
            found = self._get("", "persistentvolumeclaims", namespace, claim)
            if found is not None and found.get("spec", {}).get("volumeName") == name:
                return True
        return False

    def _volume_secret(self, node: str, namespace: str, name: str) -> bool:
        """Secrets that a volume bound to one of the pods' claims refers to."""
        for pod in self._pods_of_node(node):
            for claim in references(pod, "persistentvolumeclaims"):
                found = self._get("", "persistentvolumeclaims", pod["metadata"].get("namespace", ""), claim)
                volume = found and self._get("", "persistentvolumes", "", found.get("spec", {}).get("volumeName", ""))
                for value in (volume or {}).get("spec", {}).values():
                    if isinstance(value, dict) and (namespace, name) in _secret_references(value):
                        return True
        return False

    def _token(self, node: str, attributes: Attributes) -> Decision:
        if attributes.verb == "get" and not attributes.subresource:
            return self._referenced(node, attributes, ("get",))
        if attributes.verb != "create" or attributes.subresource != "token":
            return Decision(Verdict.NO_OPINION, "can only create tokens for individual service accounts")
        if self._is_referenced(node, attributes):
            return Decision(Verdict.ALLOW)
        return Decision(Verdict.NO_OPINION, f"no relationship found between node '{node}' and this object")

    @staticmethod
    def _lease(node: str, attributes: Attributes) -> Decision:
        if attributes.verb not in ("get", "create", "update", "patch", "delete"):
            return Decision(Verdict.NO_OPINION, "can only get, create, update, patch, or delete a node lease")
        if attributes.namespace != "kube-node-lease":
            message = 'can only access leases in the "kube-node-lease" system namespace'
            return Decision(Verdict.NO_OPINION, message)
        if attributes.verb != "create" and attributes.name != node:
            message = "can only access node lease with the same name as the requesting node"
            return Decision(Verdict.NO_OPINION, message)
        return Decision(Verdict.ALLOW)

    @staticmethod
    def _own_name(node: str, attributes: Attributes, message: str) -> Decision:
        if attributes.verb not in ("get", "create", "update", "patch", "delete"):
            return Decision(Verdict.NO_OPINION, "can only get, create, update, patch, or delete a CSINode")
        if attributes.verb != "create" and attributes.name != node:
            return Decision(Verdict.NO_OPINION, message)
        return Decision(Verdict.ALLOW)


def references(pod: Object, resource: str) -> set[str]:
    """Names of the objects of a resource, in the pod's own namespace, that a pod refers to."""
    spec = pod.get("spec", {})
    match resource:
        case "serviceaccounts":
            return {spec.get("serviceAccountName") or "default"}
        case "persistentvolumeclaims":
            return _claims(pod)
        case "resourceclaims":
            statuses = pod.get("status", {}).get("resourceClaimStatuses") or ()
            named = {item.get("resourceClaimName") for item in spec.get("resourceClaims") or ()}
            return {name for name in named | {item.get("resourceClaimName") for item in statuses} if name}
        case "secrets":
            return _in_containers(spec, "secretKeyRef", "secretRef") | _secrets(spec)
        case "configmaps":
            return _in_containers(spec, "configMapKeyRef", "configMapRef") | _config_maps(spec)
    return set()


def _claims(pod: Object) -> set[str]:
    names = set()
    for volume in pod.get("spec", {}).get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            names.add(volume["persistentVolumeClaim"].get("claimName", ""))
        elif "ephemeral" in volume:
            names.add(f"{pod['metadata'].get('name', '')}-{volume['name']}")
    return names


def _in_containers(spec: Object, key_reference: str, reference: str) -> set[str]:
    names = set()
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(key) or ():
            for variable in container.get("env") or ():
                names.add(((variable.get("valueFrom") or {}).get(key_reference) or {}).get("name"))
            for source in container.get("envFrom") or ():
                names.add((source.get(reference) or {}).get("name"))
    return {name for name in names if name}


def _secrets(spec: Object) -> set[str]:
    names = {reference.get("name", "") for reference in spec.get("imagePullSecrets") or ()}
    for volume in spec.get("volumes") or ():
        if "secret" in volume:
            names.add(volume["secret"].get("secretName", ""))
        for source in (volume.get("projected") or {}).get("sources") or ():
            names.add((source.get("secret") or {}).get("name", ""))
        for value in volume.values():
            if isinstance(value, dict):
                names.update(name for _, name in _secret_references(value))
    return {name for name in names if name}


def _secret_references(source: Object) -> set[tuple[str, str]]:
    """(namespace, name) of the secrets a volume source refers to, as CSI, iSCSI, RBD and others do."""
    found = set()
    for key, value in source.items():
        if key.endswith("Ref") and "ecret" in key and isinstance(value, dict):
            found.add((value.get("namespace", ""), value.get("name", "")))
    return found


def _config_maps(spec: Object) -> set[str]:
    names = set()
    for volume in spec.get("volumes") or ():
        names.add((volume.get("configMap") or {}).get("name", ""))
        for source in (volume.get("projected") or {}).get("sources") or ():
            names.add((source.get("configMap") or {}).get("name", ""))
    return {name for name in names if name}
