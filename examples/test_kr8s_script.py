"""A script that uses kr8s: scale what has a label."""

from __future__ import annotations

import pytest

from tiphys import testing
from tiphys.testing import build

kr8s = pytest.importorskip("kr8s")
# kr8s warns of versions newer than itself.
pytestmark = pytest.mark.filterwarnings("ignore:Kubernetes version:UserWarning")


def scale_all(api, namespace: str, replicas: int) -> list[str]:
    """The script under test."""
    found = list(api.get("deployments", namespace=namespace, label_selector={"scale": "me"}))
    for deployment in found:
        deployment.patch({"spec": {"replicas": replicas}})
    return [deployment.name for deployment in found]


def test_scale_all(tiphys_cluster: testing.Cluster, tiphys_namespace: str) -> None:
    from kr8s.objects import Deployment

    api = kr8s.api(kubeconfig=str(tiphys_cluster.kubeconfig))
    for name, labels in (("one", {"scale": "me"}), ("two", {"scale": "not"})):
        Deployment(build.deployment(name, namespace=tiphys_namespace, labels=labels), api=api).create()
    assert scale_all(api, tiphys_namespace, 3) == ["one"]
    found = {one.name: one.spec.replicas for one in api.get("deployments", namespace=tiphys_namespace)}
    assert found == {"one": 3, "two": 1}
