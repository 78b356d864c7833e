"""The bootstrap roles and bindings, read from policy.txt (its head explains the notation).

https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any, Final

RBAC: Final = "rbac.authorization.k8s.io"
API_VERSION: Final = f"{RBAC}/v1"
CONTROLLER_PREFIX: Final = "system:controller:"
_VERBS: Final = {
    "@read": ("get", "list", "watch"),
    "@write": ("create", "delete", "deletecollection", "patch", "update"),
    "@all": ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"),
}
_EVENTS: Final = "create patch update | core events.k8s.io | events"

Object = dict[str, Any]


def bootstrap_objects() -> list[Object]:
    """Every role and binding, roles first, as the API writes them."""
    roles: list[Object] = []
    bindings: list[Object] = []
    for line in resources.files(__package__).joinpath("policy.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("  "):
            roles[-1].setdefault("rules", []).append(_rule(line.strip()))
        elif line.startswith(("ClusterRoleBinding", "RoleBinding")):
            bindings.append(_binding(line))
        else:
            roles.append(_role(line.split()))
    bindings += _controller_bindings(roles)
    return roles + bindings


def _metadata(name: str, namespace: str = "") -> Object:
    metadata: Object = {
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    }
    if namespace:
        metadata["namespace"] = namespace
    return metadata


def _role(words: list[str]) -> Object:
    kind = words.pop(0)
    namespace = words.pop(0) if kind == "Role" else ""
    role: Object = {"apiVersion": API_VERSION, "kind": kind, "metadata": _metadata(words.pop(0), namespace)}
    for word in words:
        label = f"{RBAC}/{word[1:]}"
        if word[0] == "+":
            role["metadata"]["labels"][label] = "true"
        else:
            role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}
    return role


def _rule(text: str) -> Object:
    if text == "@events":
        text = _EVENTS
    verbs, path, urls = text.partition(" > ")
    if path:
        return {"verbs": _verbs(verbs), "nonResourceURLs": urls.split()}
    parts = [part.split() for part in text.split("|")]
    groups = sorted("" if group == "core" else group for group in parts[1])
    rule: Object = {"verbs": _verbs(" ".join(parts[0])), "apiGroups": groups, "resources": sorted(parts[2])}
    if len(parts) > 3:
        rule["resourceNames"] = sorted(parts[3])
    return rule


def _verbs(text: str) -> list[str]:
    return sorted(verb for word in text.split() for verb in _VERBS.get(word, (word,)))


def _binding(line: str) -> Object:
    head, _, who = line.partition(": ") if ": " in line else (line.rstrip(":"), "", "")
    words = head.split()
    kind = words.pop(0)
    namespace = words.pop(0) if kind == "RoleBinding" else ""
    name, role = words
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": RBAC, "kind": kind.removesuffix("Binding"), "name": role},
        "subjects": [_subject(*subject.split()) for subject in who.split(", ") if subject],
    }


def _subject(kind: str, name: str) -> Object:
    if kind == "ServiceAccount":
        namespace, _, account = name.partition("/")
        return {"kind": kind, "name": account, "namespace": namespace}
    return {"kind": kind, "apiGroup": RBAC, "name": name}


def _controller_bindings(roles: list[Object]) -> Iterator[Object]:
    for role in roles:
        name = role["metadata"]["name"]
        if role["kind"] == "ClusterRole" and name.startswith(CONTROLLER_PREFIX):
            account = name.removeprefix(CONTROLLER_PREFIX)
            yield {
                "apiVersion": API_VERSION,
                "kind": "ClusterRoleBinding",
                "metadata": _metadata(name),
                "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
                "subjects": [_subject("ServiceAccount", f"kube-system/{account}")],
            }
