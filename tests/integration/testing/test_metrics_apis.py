"""The metrics APIs as their users have them: a server behind the aggregator, the autoscaler reading from it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apiserver.extension import Extension, extension_server
from tests.integration.testing.metrics_server import Adapter, MetricsServer
from tiphys import testing
from tiphys.apiserver.pki import Authority
from tiphys.client import Client
from tiphys.machinery.errors import StatusError

APISERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
MERGE = "application/merge-patch+json"

Object = dict[str, Any]


class Addons:
    """Runs servers of metrics and registers them; everything is taken back at the end."""

    def __init__(self, client: Client, namespace: str, directory: Path, stack: AsyncExitStack) -> None:
        self.client = client
        self.namespace = namespace
        self._directory = directory
        self._stack = stack
        self.authority = Authority.create("metrics-ca")

    async def add(self, extension: Extension, name: str) -> None:
        """Serve and register, as an extension server finds out whom to trust."""
        path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
        trusted = (await self.client.request_json("GET", path))["data"]
        assert trusted["requestheader-allowed-names"] == '["front-proxy-client"]'
        (self._directory / "front-proxy-ca.crt").write_text(trusted["requestheader-client-ca-file"])
        host = f"{name}.{self.namespace}.svc"
        made = extension_server(extension, self.authority, [host], self._directory)
        await self._stack.enter_async_context(made)
        service = {"metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": "localhost"}}
        await self.client.request_json("POST", f"/api/v1/namespaces/{self.namespace}/services", service)
        version = extension.versions[0]
        spec = {
            "group": extension.group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "caBundle": base64.b64encode(self.authority.pem).decode(),
            "service": {"namespace": self.namespace, "name": name, "port": extension.port},
        }
        obj = f"{version}.{extension.group}"
        await self.client.request_json("POST", APISERVICES, {"metadata": {"name": obj}, "spec": spec})
        self._stack.push_async_callback(self.client.request_json, "DELETE", f"{APISERVICES}/{obj}")

        async def available() -> bool:
            status = (await self.client.request_json("GET", f"{APISERVICES}/{obj}")).get("status") or {}
            return any(one["status"] == "True" for one in status.get("conditions") or ())

        await eventually(available)

    async def deployment(self) -> str:
        """A Deployment of one pod that runs, as far as anybody can see; the pod's name."""
        resources = {"requests": {"memory": "64Mi"}}
        template = {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "busybox", "resources": resources}]},
        }
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        await self.client.request_json("POST", path, {"metadata": {"name": "web"}, "spec": spec})
        pods = f"/api/v1/namespaces/{self.namespace}/pods"

        async def made() -> bool:
            return bool((await self.client.request_json("GET", pods))["items"])

        await eventually(made)
        name = str((await self.client.request_json("GET", pods))["items"][0]["metadata"]["name"])
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        await self.client.request_json("PATCH", f"{pods}/{name}/status", {"status": status}, content_type=MERGE)
        return name

    async def scales_to(self, replicas: int, metric: Object) -> None:
        """Autoscale the Deployment by a metric, and wait until that has happened."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
        spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 9, "metrics": [metric]}
        path = f"/apis/autoscaling/v2/namespaces/{self.namespace}/horizontalpodautoscalers"
        await self.client.request_json("POST", path, {"metadata": {"name": "web"}, "spec": spec})
        deployment = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/web"

        async def scaled() -> bool:
            return bool((await self.client.request_json("GET", deployment))["spec"]["replicas"] == replicas)

        await eventually(scaled)


async def eventually(check: Any) -> None:
    async with asyncio.timeout(40):
        while not await check():  # noqa: ASYNC110  # the other side is a server
            await asyncio.sleep(0.05)


@pytest.fixture
async def addons(tiphys_cluster: testing.Cluster, tiphys_namespace: str, tmp_path: Path) -> AsyncIterator[Addons]:
    async with Client(tiphys_cluster.client_config.rest_config()) as client, AsyncExitStack() as stack:
        yield Addons(client, tiphys_namespace, tmp_path, stack)


async def test_the_autoscaler_follows_a_metrics_server(addons: Addons) -> None:
    server = MetricsServer(usage={"cpu": "10m", "memory": "192Mi"})
    server.pods = [(addons.namespace, await addons.deployment(), {"app": "web"})]
    await addons.add(server, "metrics-server")
    target = {"type": "Utilization", "averageUtilization": 100}
    await addons.scales_to(3, {"type": "Resource", "resource": {"name": "memory", "target": target}})
    asked = server.about("/pods?")[-1]
    assert asked.proxy == "front-proxy-client"
    assert asked.headers["x-remote-user"] == "kubernetes-admin"  # as whom controllers act here


async def test_the_autoscaler_follows_an_adapter_of_custom_metrics(addons: Addons) -> None:
    await addons.deployment()
    adapter = Adapter(value="30")
    await addons.add(adapter, "adapter")
    described = {"apiVersion": "v1", "kind": "Service", "name": "web"}
    target = {"type": "Value", "value": "10"}
    metric = {"metric": {"name": "requests"}, "describedObject": described, "target": target}
    await addons.scales_to(3, {"type": "Object", "object": metric})
    assert adapter.about("/services/web/requests")


async def test_the_autoscaler_follows_external_metrics(addons: Addons) -> None:
    await addons.deployment()
    await addons.add(Adapter(group="external.metrics.k8s.io", value="40"), "external")
    target = {"type": "AverageValue", "averageValue": "10"}
    await addons.scales_to(4, {"type": "External", "external": {"metric": {"name": "queue"}, "target": target}})


async def test_metrics_nobody_serves_any_more_are_unavailable(addons: Addons) -> None:
    server = MetricsServer(healthy=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await addons.add(server, "metrics-server")
    with pytest.raises(StatusError) as refused:
        await addons.client.request_json("GET", "/apis/metrics.k8s.io/v1beta1/nodes")
    assert refused.value.code == 503
