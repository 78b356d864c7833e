"""An operator written with kopf, run in a thread as `kopf run` would, against a real API server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tiphys import testing
from tiphys.testing import build

kopf = pytest.importorskip("kopf")
kubernetes = pytest.importorskip("kubernetes")


def operator() -> kopf.OperatorRegistry:
    """Every namespace with the label `team` gets a ConfigMap that names the team."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**arguments):
        return kopf.login_with_kubeconfig(**arguments)

    @kopf.on.create("namespaces", labels={"team": kopf.PRESENT}, registry=registry)
    @kopf.on.update("namespaces", labels={"team": kopf.PRESENT}, registry=registry)
    def furnish(name, labels, **_):
        core = kubernetes.client.CoreV1Api()
        made = build.config_map("team", namespace=name, team=labels["team"])
        try:
            core.create_namespaced_config_map(name, made)
        except kubernetes.client.ApiException as error:
            if error.status != 409:
                raise
            core.replace_namespaced_config_map("team", name, made)

    return registry


@pytest.fixture
def core(tiphys_cluster: testing.Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[kubernetes.client.CoreV1Api]:
    """The operator runs; a client to see what it does."""
    monkeypatch.setenv("KUBECONFIG", str(tiphys_cluster.kubeconfig))
    kubernetes.config.load_kube_config(str(tiphys_cluster.kubeconfig))
    ready, stop = threading.Event(), threading.Event()
    settings = {"registry": operator(), "ready_flag": ready, "stop_flag": stop, "clusterwide": True, "standalone": True}
    thread = threading.Thread(target=kopf.run, kwargs=settings)
    thread.start()
    assert ready.wait(20)
    yield kubernetes.client.CoreV1Api()
    stop.set()
    thread.join(20)


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_teams_namespace_is_furnished_and_kept_so(core: kubernetes.client.CoreV1Api) -> None:
    def team() -> str:
        found = core.list_namespaced_config_map("apollo", field_selector="metadata.name=team").items
        return found[0].data["team"] if found else ""

    core.create_namespace(build.namespace("apollo", labels={"team": "moon"}))
    eventually(lambda: team() == "moon")
    core.patch_namespace("apollo", {"metadata": {"labels": {"team": "mars"}}})
    eventually(lambda: team() == "mars")


def test_other_namespaces_are_left_alone(core: kubernetes.client.CoreV1Api, tiphys_cluster: testing.Cluster) -> None:
    other = tiphys_cluster.namespace()
    core.create_namespace(build.namespace("gemini", labels={"team": "orbit"}))
    eventually(lambda: any(found.metadata.name == "team" for found in core.list_namespaced_config_map("gemini").items))
    assert [found.metadata.name for found in core.list_namespaced_config_map(other).items] == ["kube-root-ca.crt"]
