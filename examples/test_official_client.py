"""The official Python client: a Deployment becomes pods, a watch sees them, a node takes one."""

from __future__ import annotations

import pytest

from tiphys import testing
from tiphys.testing import build

kubernetes = pytest.importorskip("kubernetes")


@pytest.fixture
def api(tiphys_cluster: testing.Cluster):
    with kubernetes.config.new_client_from_config(str(tiphys_cluster.kubeconfig)) as client:
        yield client


def test_a_deployment_makes_pods(api, tiphys_namespace: str) -> None:
    core = kubernetes.client.CoreV1Api(api)
    kubernetes.utils.create_from_dict(api, build.deployment("web", namespace=tiphys_namespace, replicas=2))
    seen = set()
    watch = kubernetes.watch.Watch()
    for event in watch.stream(core.list_namespaced_pod, tiphys_namespace, timeout_seconds=20):
        seen.add(event["object"].metadata.name)
        if len(seen) == 2:
            watch.stop()
    assert all(name.startswith("web-") for name in seen)


def test_the_test_plays_the_kubelet(api, tiphys_namespace: str) -> None:
    core = kubernetes.client.CoreV1Api(api)
    core.create_namespaced_pod(tiphys_namespace, build.pod(nodeName="imaginary"))
    status = {"status": {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}}
    core.patch_namespaced_pod_status("pod", tiphys_namespace, status)
    assert core.read_namespaced_pod("pod", tiphys_namespace).status.phase == "Running"


def test_errors_are_those_of_kubernetes(api, tiphys_namespace: str) -> None:
    core = kubernetes.client.CoreV1Api(api)
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.create_namespaced_pod(tiphys_namespace, build.pod("Not_A_Name"))
    assert caught.value.status == 422
