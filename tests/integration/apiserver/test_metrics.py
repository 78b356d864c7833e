"""/metrics of a server that was asked something: what dashboards, alerts and service levels are computed from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apiserver.cluster import Cluster, secured_cluster

MAPS = "/api/v1/namespaces/d/configmaps"
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


class Metrics:
    """What a server exposes."""

    def __init__(self, text: str) -> None:
        self.lines = [line for line in text.splitlines() if not line.startswith("#")]
        self.kinds = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}

    def value(self, name: str, /, **labels: str) -> float:
        """The sum of the series of a name that have these labels; 0 without any."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.lines
            if line.startswith((f"{name}{{", f"{name} ")) and all(part in line for part in wanted)
        )


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with secured_cluster(tmp_path) as found:
        yield found


async def scraped(cluster: Cluster, path: str = "/metrics") -> Metrics:
    return Metrics((await cluster.api.raw("GET", path)).decode())


def hook(name: str, resource: str, policy: str) -> dict[str, Any]:
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": 2,
        "failurePolicy": policy,
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}],
    }


async def test_webhooks_that_cannot_be_asked(cluster: Cluster) -> None:
    before = await scraped(cluster)
    hooks = [hook("open.example.com", "configmaps", "Ignore"), hook("shut.example.com", "secrets", "Fail")]
    await cluster.api.post(HOOKS, {"metadata": {"name": "hooks"}, "webhooks": hooks})
    await cluster.api.post(MAPS, {"metadata": {"name": "a"}})
    await cluster.api.post("/api/v1/namespaces/d/secrets", {"metadata": {"name": "a"}})
    after = await scraped(cluster)

    def more(name: str, /, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    webhook = "apiserver_admission_webhook"
    assert more(f"{webhook}_fail_open_count", name="open.example.com", type="validating") == 1
    shut = {"name": "shut.example.com", "operation": "CREATE", "type": "validating"}
    assert more(f"{webhook}_rejection_count", error_type="calling_webhook_error", rejection_code="503", **shut) == 1
    assert more(f"{webhook}_request_total", code="503", rejected="true", **shut) == 1
    assert more(f"{webhook}_admission_duration_seconds_count", rejected="true", **shut) == 1
    plugin = {"name": "ValidatingAdmissionWebhook", "operation": "CREATE", "type": "validate"}
    controller = "apiserver_admission_controller_admission_duration_seconds_count"
    assert more(controller, rejected="true", **plugin) == 1
    assert more(controller, rejected="false", **plugin) >= 1
    step = "apiserver_admission_step_admission_duration_seconds_count"
    assert more(step, operation="CREATE", type="validate", rejected="true") == 1
    # The write that was refused is there too, and its time.
    posts = {"verb": "POST", "resource": "secrets", "scope": "resource"}
    assert more("apiserver_request_total", code="500", **posts) == 1
    assert more("apiserver_request_sli_duration_seconds_count", **posts) == 1
    assert more("apiserver_request_sli_duration_seconds_sum", **posts) < more(
        "apiserver_request_duration_seconds_sum", **posts
    )


async def test_watches_last(cluster: Cluster) -> None:
    async def lasting() -> float:
        return (await scraped(cluster)).value("apiserver_longrunning_requests", verb="WATCH", resource="configmaps")

    watching = asyncio.create_task(cluster.api.events(f"{MAPS}?watch=1&timeoutSeconds=1", 100))
    for _ in range(100):
        if await lasting() == 1:
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the watch is not counted")
    await watching
    assert await lasting() == 0


async def test_deprecated_apis(cluster: Cluster) -> None:
    await cluster.api.get("/api/v1/namespaces/d/endpoints")
    name = "apiserver_requested_deprecated_apis"
    assert (await scraped(cluster)).value(name, resource="endpoints", removed_release="") == 1


async def test_the_store_and_the_watch_cache(cluster: Cluster) -> None:
    before = await scraped(cluster)
    watching = asyncio.create_task(cluster.api.events("/api/v1/namespaces/d/configmaps?watch=1&timeoutSeconds=5", 3))
    await asyncio.sleep(0.1)
    made = await cluster.api.post(MAPS, {"metadata": {"name": "counted"}})
    await cluster.api.merge(f"{MAPS}/counted", {"data": {"a": "x" * 3000}})
    await watching
    after = await scraped(cluster)
    kind = {"group": "", "resource": "configmaps"}

    def more(name: str, /, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert made["kind"] == "ConfigMap"
    objects = len((await cluster.api.get("/api/v1/configmaps"))["items"])
    assert after.value("apiserver_resource_objects", **kind) == objects
    assert after.value("apiserver_storage_objects", resource="configmaps") == objects
    roles = after.value("apiserver_storage_objects", resource="clusterroles.rbac.authorization.k8s.io")
    assert roles == after.value("apiserver_resource_objects", resource="clusterroles") > 10
    assert after.value("apiserver_storage_size_bytes", storage_cluster_id="etcd-0") >= 0
    for operation in ("create", "update"):
        assert more("etcd_requests_total", operation=operation, **kind) == 1
        assert more("etcd_request_duration_seconds_count", operation=operation, **kind) == 1
    assert more("apiserver_watch_cache_events_received_total", **kind) == 2
    assert more("apiserver_watch_cache_events_dispatched_total", **kind) == 2
    assert after.value("apiserver_watch_cache_initializations_total", **kind) == 1
    assert more("apiserver_watch_events_total", version="v1", **kind) >= 2
    assert more("apiserver_watch_events_sizes_sum", version="v1", **kind) > 3000
    assert after.kinds["apiserver_watch_events_sizes"] == "histogram"
    assert after.kinds["etcd_requests_total"] == "counter"


async def test_the_process_and_its_checks(cluster: Cluster) -> None:
    found = await scraped(cluster)
    assert found.value("kubernetes_build_info", major="1", minor="36") == 1
    assert found.value("kubernetes_feature_enabled", name="SidecarContainers") == 1
    assert found.value("process_resident_memory_bytes") > 1e6
    assert found.value("process_open_fds") > 3
    assert found.value("process_cpu_seconds_total") > 0
    assert 0 <= time.time() - found.value("process_start_time_seconds") < 86400
    await cluster.api.raw("GET", "/readyz")
    await cluster.api.raw("GET", "/readyz?exclude=ping")
    checks = await scraped(cluster, "/metrics/slis")
    assert checks.value("kubernetes_healthcheck", name="etcd", type="readyz") == 1
    assert checks.value("kubernetes_healthchecks_total", name="etcd", status="success", type="readyz") == 2
    assert checks.value("kubernetes_healthchecks_total", name="ping", status="success", type="readyz") == 1
