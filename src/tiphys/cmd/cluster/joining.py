"""What a cluster offers machines that join it: how to trust it, what they may ask for, and how its nodes are set up.

Names are those kubeadm gives to the same objects, so that `kubeadm join` finds them, too. What a bootstrap token
may do, and for its day of life only: read how nodes are configured, ask for a kubelet's client certificate (which
is approved by itself), and get tokens for kube-proxy and the network agent of the new node.
https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tiphys.cmd.cluster.spec import ClusterSpec

Object = dict[str, Any]

BOOTSTRAPPERS: Final = "system:bootstrappers:kubeadm:default-node-token"
CLUSTER_INFO: Final = ("kube-public", "cluster-info")
NODE_CONFIG: Final = ("kube-system", "tiphys-node-config")
# Service accounts of the components that run beside a joined kubelet → the role they need.
ACCOUNTS: Final = {"kube-proxy": "system:node-proxier", "tiphys-network": "system:tiphys:network"}
SERVING_APPROVER: Final = "kubelet-serving-approver"

_RBAC: Final = "rbac.authorization.k8s.io"
_REQUESTS: Final = "system:certificates.k8s.io:certificatesigningrequests"
# ClusterRoleBinding → (ClusterRole, group).
_BINDINGS: Final = {
    "kubeadm:get-nodes": ("kubeadm:get-nodes", BOOTSTRAPPERS),
    "kubeadm:kubelet-bootstrap": ("system:node-bootstrapper", BOOTSTRAPPERS),
    "kubeadm:node-autoapprove-bootstrap": (f"{_REQUESTS}:nodeclient", BOOTSTRAPPERS),
    "kubeadm:node-autoapprove-certificate-rotation": (f"{_REQUESTS}:selfnodeclient", "system:nodes"),
}


def joining(spec: ClusterSpec, cluster_info: Mapping[str, Any]) -> list[Object]:
    """The objects, in the order they are applied. `cluster_info` is a kubeconfig without any user."""
    return [
        _config_map(*CLUSTER_INFO, {"kubeconfig": json.dumps(cluster_info)}),
        *_reader(*CLUSTER_INFO, "kubeadm:bootstrap-signer-clusterinfo", [_user("system:anonymous")]),
        _config_map(*NODE_CONFIG, node_config(spec)),
        *_reader(*NODE_CONFIG, "tiphys:node-config", [_group(BOOTSTRAPPERS), _group("system:nodes")]),
        _role("ClusterRole", {"name": "kubeadm:get-nodes"}, [_rule([""], ["nodes"], ["get"])]),
        *(
            _binding("ClusterRoleBinding", {"name": name}, role, [_group(group)])
            for name, (role, group) in _BINDINGS.items()
        ),
        *_accounts(),
        *_serving_approver(),
    ]


def node_config(spec: ClusterSpec) -> dict[str, str]:
    """What is the same on every node of the cluster."""
    return {
        "cluster": spec.name,
        "clusterDNS": spec.dns_address,
        "clusterDomain": spec.cluster_domain,
        "clusterCIDR": spec.pod_cidr,
        "network": spec.network,
        "proxyMode": spec.proxy_mode,
    }


def _accounts() -> list[Object]:
    found: list[Object] = []
    for account, role in ACCOUNTS.items():
        metadata = {"name": account, "namespace": "kube-system"}
        subject = {"kind": "ServiceAccount", **metadata}
        found.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        found.append(_binding("ClusterRoleBinding", {"name": f"tiphys:{account}"}, role, [subject]))
    may = _rule([""], ["serviceaccounts/token"], ["create"], list(ACCOUNTS))
    metadata = {"name": "tiphys:node-accounts", "namespace": "kube-system"}
    found.append(_role("Role", metadata, [may]))
    found.append(_binding("RoleBinding", metadata, metadata["name"], [_group(BOOTSTRAPPERS)]))
    for account in ACCOUNTS:  # what a node has, it renews with what it has
        metadata = {"name": f"tiphys:renew-{account}", "namespace": "kube-system"}
        subject = {"kind": "ServiceAccount", "name": account, "namespace": "kube-system"}
        found.append(_role("Role", metadata, [_rule([""], ["serviceaccounts/token"], ["create"], [account])]))
        found.append(_binding("RoleBinding", metadata, metadata["name"], [subject]))
    return found


def _serving_approver() -> list[Object]:
    """The rights of the controller that approves kubelets' serving certificates."""
    name = f"tiphys:{SERVING_APPROVER}"
    group = ["certificates.k8s.io"]
    rules = [
        _rule(group, ["certificatesigningrequests"], ["get", "list", "watch"]),
        _rule(group, ["certificatesigningrequests/approval"], ["update"]),
        _rule(group, ["signers"], ["approve"], ["kubernetes.io/kubelet-serving"]),
        _rule([""], ["nodes"], ["get", "list", "watch"]),
    ]
    subject = {"kind": "ServiceAccount", "name": SERVING_APPROVER, "namespace": "kube-system"}
    return [
        _role("ClusterRole", {"name": name}, rules),
        _binding("ClusterRoleBinding", {"name": name}, name, [subject]),
    ]


# -- forms ---------------------------------------------------------------------------------------


def _config_map(namespace: str, name: str, data: Mapping[str, str]) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}


def _reader(namespace: str, config_map: str, name: str, subjects: list[Object]) -> list[Object]:
    """A role to read one ConfigMap, given to `subjects`."""
    metadata = {"name": name, "namespace": namespace}
    rule = _rule([""], ["configmaps"], ["get"], [config_map])
    return [_role("Role", metadata, [rule]), _binding("RoleBinding", metadata, name, subjects)]


def _rule(groups: list[str], resources: list[str], verbs: list[str], names: list[str] | None = None) -> Object:
    rule: Object = {"apiGroups": groups, "resources": resources, "verbs": verbs}
    return {**rule, "resourceNames": names} if names else rule


def _role(kind: str, metadata: Mapping[str, str], rules: list[Object]) -> Object:
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": dict(metadata), "rules": rules}


def _binding(kind: str, metadata: Mapping[str, str], role: str, subjects: list[Object]) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": kind,
        "metadata": dict(metadata),
        "roleRef": {"apiGroup": _RBAC, "kind": kind.removesuffix("Binding"), "name": role},
        "subjects": subjects,
    }


def _user(name: str) -> Object:
    return {"kind": "User", "apiGroup": _RBAC, "name": name}


def _group(name: str) -> Object:
    return {"kind": "Group", "apiGroup": _RBAC, "name": name}
