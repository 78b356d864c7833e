"""What runs in every cluster besides its components: cluster DNS, and the rights of the network agent."""

from __future__ import annotations

from typing import Any, Final

from tiphys.cmd.cluster.identities import COMPONENTS
from tiphys.cmd.cluster.spec import ClusterSpec
from tiphys.dns.manifests import CONFIG_DIRECTORY, manifests
from tiphys.runtime.images.system import system_image_name

RBAC: Final = "rbac.authorization.k8s.io"
NETWORK_ROLE: Final = "system:tiphys:network"

Object = dict[str, Any]


def cluster_dns(spec: ClusterSpec) -> list[Object]:
    """The objects of cluster DNS, in the order they are applied."""
    return manifests(
        spec.dns_address,
        spec.cluster_domain,
        image=system_image_name(),
        replicas=min(2, len(spec.nodes)),
        command=("python3", "-m", "tiphys.cmd.main", "dns", "--conf", f"{CONFIG_DIRECTORY}/Corefile"),
    )


def network_rights() -> list[Object]:
    """The network agent follows nodes, writes its own data on them, and reads what policies are made of."""
    rules = [
        {"apiGroups": [""], "resources": ["nodes", "pods", "namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["patch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
    ]
    user, _ = COMPONENTS["network"]
    return [
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": NETWORK_ROLE},
            "rules": rules,
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NETWORK_ROLE},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": NETWORK_ROLE},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
        },
    ]
