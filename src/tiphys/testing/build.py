"""Objects for tests, as little as Kubernetes accepts; what matters to the test is named by keyword.

Each function returns a plain dict for any client's "create from dict". Without `namespace` it has none, as a manifest:
the client says where it goes. `tiphys.client` takes the typed form: `msgspec.convert(build.node(), Node)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]
IMAGE = "busybox"


def namespace(name: str, *, labels: Mapping[str, str] | None = None) -> Object:
    """A Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": _metadata(name, "", labels)}


def pod(name: str = "pod", *, namespace: str = "", labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """A Pod of one container; `spec` replaces or adds fields of its spec: `pod(nodeName="n1")`."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(name, namespace, labels),
        "spec": {"containers": [{"name": "main", "image": IMAGE}], **spec},
    }


def deployment(
    name: str = "deployment", *, namespace: str = "", replicas: int = 1, labels: Mapping[str, str] | None = None
) -> Object:
    """A Deployment whose pods have `labels` (default: app=NAME)."""
    chosen = dict(labels or {"app": name})
    template = {"metadata": {"labels": chosen}, "spec": {"containers": [{"name": "main", "image": IMAGE}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name, namespace, chosen),
        "spec": {"replicas": replicas, "selector": {"matchLabels": chosen}, "template": template},
    }


def service(
    name: str = "service", *, namespace: str = "", port: int = 80, selector: Mapping[str, str] | None = None
) -> Object:
    """A ClusterIP Service for pods with the labels `selector` (default: app=NAME)."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, namespace, None),
        "spec": {"selector": dict(selector or {"app": name}), "ports": [{"port": port}]},
    }


def config_map(name: str = "config", *, namespace: str = "", **data: str) -> Object:
    """A ConfigMap: `config_map(key="value")`."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(name, namespace, None), "data": data}


def node(name: str = "node", *, cpu: str = "4", memory: str = "8Gi", pods: str = "110") -> Object:
    """A Node that says it is Ready. Its status has to be written too: the server takes it from `/status` only."""
    resources = {"cpu": cpu, "memory": memory, "pods": pods}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "made by a test"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": _metadata(name, "", {"kubernetes.io/hostname": name}),
        "status": {"capacity": resources, "allocatable": dict(resources), "conditions": [ready]},
    }


def custom_resource(
    kind: str, group: str, *, plural: str = "", version: str = "v1", schema: Object | None = None
) -> Object:
    """A namespaced CustomResourceDefinition with a status; `schema` (of `spec`) defaults to anything."""
    plural = plural or f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    properties = {"spec": schema or anything, "status": anything}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [served],
        },
    }


def _metadata(name: str, namespace: str, labels: Mapping[str, str] | None) -> Object:
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = dict(labels)
    return metadata
