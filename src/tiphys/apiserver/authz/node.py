"""The Node authorizer: a kubelet reads what the pods bound to its node refer to, and nothing else of that sort.

Pods' own references come from an index by node; what lies behind a claim (its volume, the volume's secrets) is looked
up when it is asked for, so that nothing can be out of date.
https://kubernetes.io/docs/reference/access-authn-authz/node/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.apiserver.authz.references import secret_references
from tiphys.apiserver.authz.resolve import Resolved
from tiphys.apiserver.authz.rules import PolicyRule
from tiphys.machinery.errors import StatusError
from tiphys.machinery.selectors import FieldSelector

NODE_PREFIX: Final = "system:node:"
NODE_GROUP: Final = "system:nodes"
READ: Final = ("get", "list", "watch")
# What lies behind pods: read one by one.
GET_ONLY: Final = frozenset(
    {
        ("", "persistentvolumeclaims"),
        ("", "persistentvolumes"),
        ("resource.k8s.io", "resourceclaims"),
        ("storage.k8s.io", "volumeattachments"),
    }
)
OWN_SLICES: Final = "can only list/watch/deletecollection resourceslices with nodeName field selector"
SLICE_VERBS: Final = (
    "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, "
    "deletecollection"
)
Object = Mapping[str, Any]

Get = Callable[[str, str, str, str], Object | None]  # group, resource, namespace, name


def node_of(user: UserInfo) -> str | None:
    """The name of the node a user is the kubelet of; None when it is not one."""
    if NODE_GROUP not in user.groups or not user.name.startswith(NODE_PREFIX):
        return None
    return user.name.removeprefix(NODE_PREFIX) or None


class NodeReferences(Protocol):
    """What the pods of each node refer to (`PodIndex`)."""

    def refers(self, node: str, resource: str, namespace: str, name: str) -> bool:
        """Whether a pod of the node refers to an object."""

    def all_of(self, node: str, resource: str) -> Iterable[tuple[str, str]]:
        """(namespace, name) of every object of a resource the node's pods refer to."""


_ALLOW: Final = Decision(Verdict.ALLOW)
_NO_OPINION: Final = Decision(Verdict.NO_OPINION)
REMEMBERED: Final = 1024


class NodeAuthorizer:
    """Allows what a kubelet needs. `rules` are those of the role system:node, which is bound to nobody."""

    def __init__(self, pods: NodeReferences, get: Get, rules: Sequence[PolicyRule]) -> None:
        self._pods = pods
        self._get = get
        self._rules = tuple(rules)
        # What the rules say, where it does not depend on an object's name.
        self._general = not any(rule.resource_names for rule in self._rules)
        self._allowed: dict[tuple[str, ...], bool] = {}

    def authorize(self, attributes: Attributes) -> Decision:
        node = node_of(attributes.user)
        if node is None:
            return Decision(Verdict.NO_OPINION)
        if attributes.resource_request:
            special = self._special(node, attributes)
            if special is not None:
                return special
        return _ALLOW if self._by_rules(attributes) else _NO_OPINION

    def _by_rules(self, attributes: Attributes) -> bool:
        """Whether the role's rules allow it: asked again and again for the same few things."""
        if not attributes.resource_request or not self._general:
            return any(rule.allows(attributes) for rule in self._rules)
        key = attributes.verb, attributes.api_group, attributes.resource, attributes.subresource
        found = self._allowed.get(key)
        if found is None:
            if len(self._allowed) >= REMEMBERED:
                self._allowed.clear()
            found = self._allowed[key] = any(rule.allows(attributes) for rule in self._rules)
        return found

    def resolved(self, user: UserInfo, namespace: str) -> Resolved:
        """See `Resolver`: what a node may do depends on its pods."""
        if node_of(user) is None:
            return Resolved()
        return Resolved(incomplete=True, problem="node authorizer does not support user rule resolution")

    def _special(self, node: str, attributes: Attributes) -> Decision | None:
        """The resources of which a node may see only its own; None: the role's rules decide."""
        key = (attributes.api_group, attributes.resource)
        if key in (("", "secrets"), ("", "configmaps")):
            return self._readable(node, attributes)
        if key == ("", "nodes"):
            return self._own_node(node, attributes)
        if key == ("", "pods"):
            return self._own_pods(node, attributes)
        if key == ("", "persistentvolumeclaims") and attributes.subresource == "status":
            if attributes.verb not in ("update", "patch"):
                return Decision(Verdict.NO_OPINION, "can only get/update/patch this type")
            return self._related(node, attributes)
        if key in GET_ONLY:
            return self._single(node, attributes)
        if key == ("", "serviceaccounts"):
            return self._token(node, attributes)
        if key == ("coordination.k8s.io", "leases"):
            return self._lease(node, attributes)
        if key == ("storage.k8s.io", "csinodes"):
            return self._own_name(node, attributes, "can only access CSINode with the same name as the requesting node")
        if key == ("resource.k8s.io", "resourceslices"):
            return self._slice(node, attributes)
        return None

    @staticmethod
    def _own_node(node: str, attributes: Attributes) -> Decision | None:
        if attributes.subresource or attributes.verb not in READ:
            return None
        name = attributes.name  # of lists too, where their field selector is for one name
        if name == node:
            return Decision(Verdict.ALLOW)
        what = f"'{name}'" if name else "all nodes"
        return Decision(Verdict.NO_OPINION, f"node '{node}' cannot read {what}, only its own Node object")

    def _own_pods(self, node: str, attributes: Attributes) -> Decision | None:
        if attributes.subresource or attributes.verb not in READ:
            return None
        if attributes.verb == "get" or attributes.name:
            return self._related(node, attributes)
        if _selected(attributes, "spec.nodeName") == node:
            return Decision(Verdict.ALLOW)
        return Decision(Verdict.NO_OPINION, "can only list/watch pods with spec.nodeName field selector")

    def _readable(self, node: str, attributes: Attributes) -> Decision:
        if attributes.verb not in READ:
            return Decision(Verdict.NO_OPINION, "can only read resources of this type")
        if attributes.subresource:
            return Decision(Verdict.NO_OPINION, "cannot read subresource")
        if not attributes.namespace:
            return Decision(Verdict.NO_OPINION, "can only read namespaced object of this type")
        return self._related(node, attributes)

    def _single(self, node: str, attributes: Attributes) -> Decision:
        if attributes.verb != "get":
            return Decision(Verdict.NO_OPINION, "can only get individual resources of this type")
        if attributes.subresource:
            return Decision(Verdict.NO_OPINION, "cannot get subresource")
        return self._related(node, attributes)

    def _related(self, node: str, attributes: Attributes) -> Decision:
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
        if resource == "resourceslices":
            found = self._get("resource.k8s.io", resource, "", name)
            return found is not None and (found.get("spec") or {}).get("nodeName") == node
        if resource == "persistentvolumes":
            return any(volume == name for volume, _ in self._volumes(node))
        if self._pods.refers(node, resource, namespace, name):
            return True
        return resource == "secrets" and self._volume_secret(node, namespace, name)

    def _volumes(self, node: str) -> Iterable[tuple[str, Object]]:
        """Name and spec of the volumes bound to the claims of the node's pods."""
        for namespace, claim in self._pods.all_of(node, "persistentvolumeclaims"):
            found = self._get("", "persistentvolumeclaims", namespace, claim)
            name = ((found or {}).get("spec") or {}).get("volumeName", "")
            volume = self._get("", "persistentvolumes", "", name) if name else None
            if volume is not None:
                yield name, volume.get("spec") or {}

    def _volume_secret(self, node: str, namespace: str, name: str) -> bool:
        """Secrets that one of those volumes refers to."""
        return any(
            (namespace, name) in secret_references(source)
            for _, spec in self._volumes(node)
            for source in spec.values()
            if isinstance(source, dict)
        )

    def _token(self, node: str, attributes: Attributes) -> Decision:
        if attributes.verb == "get" and not attributes.subresource:
            if not attributes.namespace:
                return Decision(Verdict.NO_OPINION, "can only read namespaced object of this type")
            return self._single(node, attributes)
        if attributes.verb != "create" or not attributes.name:
            return Decision(Verdict.NO_OPINION, "can only create tokens for individual service accounts")
        if attributes.subresource != "token":
            return Decision(Verdict.NO_OPINION, "can only create token subresource of serviceaccount")
        return self._related(node, attributes)

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

    def _slice(self, node: str, attributes: Attributes) -> Decision:
        """Slices of the node's own devices. What a new one says of its node is looked at in admission."""
        verb = attributes.verb
        if attributes.subresource:
            return Decision(Verdict.NO_OPINION, "cannot authorize ResourceSlice subresources")
        if verb == "create":
            return Decision(Verdict.ALLOW)
        if verb in ("get", "update", "patch", "delete"):
            return self._related(node, attributes)
        if verb in ("list", "watch", "deletecollection"):
            if _selected(attributes, "spec.nodeName") == node:
                return Decision(Verdict.ALLOW)
            return Decision(Verdict.NO_OPINION, OWN_SLICES)
        return Decision(Verdict.NO_OPINION, SLICE_VERBS)

    @staticmethod
    def _own_name(node: str, attributes: Attributes, message: str) -> Decision:
        if attributes.verb not in ("get", "create", "update", "patch", "delete"):
            return Decision(Verdict.NO_OPINION, "can only get, create, update, patch, or delete a CSINode")
        if attributes.subresource:
            return Decision(Verdict.NO_OPINION, "cannot authorize CSINode subresources")
        if attributes.verb != "create" and attributes.name != node:
            return Decision(Verdict.NO_OPINION, message)
        return Decision(Verdict.ALLOW)


def _selected(attributes: Attributes, field: str) -> str:
    """The value a list's field selector asks for; "" without one, or with one that cannot be read."""
    if not attributes.field_selector:
        return ""
    try:
        return FieldSelector.parse(attributes.field_selector).exact(field) or ""
    except (ValueError, StatusError):
        return ""
