"""A small metrics-server and a small adapter of custom and external metrics, behind the aggregator."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.integration.apiserver.extension import Extension
from tiphys.machinery.time import format_time

Object = dict[str, Any]
READ = ["get", "list"]


@dataclass
class MetricsServer(Extension):
    """metrics.k8s.io/v1beta1: every pod it is told of uses `usage`."""

    group: str = "metrics.k8s.io"
    versions: tuple[str, ...] = ("v1beta1",)
    aggregated: bool = False  # as the real one, up to now
    usage: Object = field(default_factory=lambda: {"cpu": "200m", "memory": "64Mi"})
    pods: list[tuple[str, str, Object]] = field(default_factory=list)  # namespace, name, labels
    nodes: list[str] = field(default_factory=list)

    def resource_list(self, version: str) -> Object:
        resources = [
            {"name": "nodes", "singularName": "", "namespaced": False, "kind": "NodeMetrics", "verbs": READ},
            {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": READ},
        ]
        group_version = f"{self.group}/{version}"
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": resources,
        }

    async def _resource(self, request: web.Request) -> web.StreamResponse:
        segments = request.path.split("/")[4:]
        if segments[0] == "nodes":
            items = [self._measured({"name": name}, {"usage": self.usage}) for name in self.nodes]
            kind = "NodeMetrics"
        else:
            namespace = segments[1] if segments[0] == "namespaces" else ""
            containers = {"containers": [{"name": "main", "usage": self.usage}]}
            items = [
                self._measured({"name": name, "namespace": place, "labels": labels}, containers)
                for place, name, labels in self.pods
                if namespace in ("", place)
            ]
            kind = "PodMetrics"
        return self._json(
            {"kind": f"{kind}List", "apiVersion": f"{self.group}/v1beta1", "metadata": {}, "items": items}
        )

    @staticmethod
    def _measured(metadata: Object, values: Object) -> Object:
        return {"metadata": metadata, "timestamp": format_time(datetime.now(UTC)), "window": "30s", **values}


@dataclass
class Adapter(Extension):
    """custom.metrics.k8s.io or external.metrics.k8s.io: every metric of everything has one `value`."""

    group: str = "custom.metrics.k8s.io"
    versions: tuple[str, ...] = ("v1beta1",)
    value: str = "30"

    async def _resource(self, request: web.Request) -> web.StreamResponse:
        *_, name, metric = request.path.split("/")
        described = {"kind": "Service", "name": name, "namespace": "default", "apiVersion": "v1"}
        item = {
            "describedObject": described,
            "metricName": metric,
            "timestamp": format_time(datetime.now(UTC)),
            "value": self.value,
        }
        return web.Response(
            body=json.dumps({"kind": "MetricValueList", "items": [item]}), content_type="application/json"
        )
