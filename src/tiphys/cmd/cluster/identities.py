"""Who is who in a cluster: the certificates and kubeconfig files of its components."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any, Final

import yaml

from tiphys.apiserver.pki import Pki, write_private
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.spec import ClusterSpec, NodeSpec

# Name of the kubeconfig → user, groups. RBAC's bootstrap roles know these names.
COMPONENTS: Final = {
    "admin": ("kubernetes-admin", ("system:masters",)),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "proxy": ("system:kube-proxy", ("system:node-proxier",)),
    "network": ("system:tiphys:network", ()),
    "ingress": ("system:tiphys:ingress", ()),
    # Thousands of kubelets in one: it writes what any of them may write.
    "simulator": ("system:tiphys:simulator", ("system:masters",)),
}


def ensure(spec: ClusterSpec, layout: Layout) -> None:
    """Make every certificate and kubeconfig the cluster's components need; what is there and fits is kept."""
    pki = Pki(layout.pki)
    _ = pki.service_account_key
    pki.server("apiserver", "kube-apiserver", _server_names(spec))
    pki.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",))
    pki.client("front-proxy-client", "front-proxy-client", front_proxy=True)
    for name, (user, groups) in COMPONENTS.items():
        base = pki.client(name, user, groups)
        # Nodes reach the API server over the bridge, everything on this machine over the loopback.
        over_bridge = spec.subnet and name in ("proxy", "network", "ingress")
        _write_kubeconfig(spec, layout, pki, name, base, bridge=bool(over_bridge))
    for node in spec.nodes:
        ensure_node(spec, layout, node, pki)


def ensure_node(spec: ClusterSpec, layout: Layout, node: NodeSpec, pki: Pki | None = None) -> None:
    """The kubelet's client and serving certificates, and its kubeconfig."""
    pki = pki or Pki(layout.pki)
    user = f"system:node:{node.name}"
    base = pki.client(f"kubelet-{node.name}", user, ("system:nodes",))
    names = [node.name, *dict.fromkeys((spec.node_address(node), *spec.node_addresses(node))), "127.0.0.1", "localhost"]
    pki.server(f"kubelet-{node.name}-server", user, names, ("system:nodes",))
    _write_kubeconfig(spec, layout, pki, f"kubelet-{node.name}", base, bridge=True)


def _server_names(spec: ClusterSpec) -> list[str]:
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append(f"kubernetes.default.svc.{spec.cluster_domain}")
    names += ["localhost", socket.gethostname(), "127.0.0.1", "::1", spec.service_address(1)]
    if spec.subnet:
        names += dict.fromkeys((spec.bridge_address(), *map(spec.bridge_address, spec.families)))
    return names


def _write_kubeconfig(spec: ClusterSpec, layout: Layout, pki: Pki, name: str, base: Path, *, bridge: bool) -> None:
    address = spec.bridge_address() if bridge else "127.0.0.1"
    user = {
        "client-certificate-data": _base64(base.with_name(base.name + ".crt").read_bytes()),
        "client-key-data": _base64(base.with_name(base.name + ".key").read_bytes()),
    }
    document = kubeconfig(spec.name, f"https://{address}:{spec.api_port}", pki.ca.pem, user)
    write_private(layout.kubeconfig(name), yaml.safe_dump(document, sort_keys=False).encode())


def kubeconfig(name: str, server: str, ca: bytes, user: dict[str, str]) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user and one context, all named after the cluster."""
    context = name if name == "tiphys" else f"tiphys-{name}"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority-data": _base64(ca)}}],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
        "preferences": {},
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
