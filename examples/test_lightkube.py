"""lightkube: server-side apply, and who owns what afterwards."""

from __future__ import annotations

import pytest

from tiphys import testing
from tiphys.testing import build

lightkube = pytest.importorskip("lightkube")


def test_apply_twice(tiphys_cluster: testing.Cluster, tiphys_namespace: str) -> None:
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.core_v1 import ConfigMap

    config = lightkube.KubeConfig.from_file(str(tiphys_cluster.kubeconfig))
    client = lightkube.Client(config=config, namespace=tiphys_namespace, field_manager="example")
    made = ConfigMap.from_dict(build.config_map(namespace=tiphys_namespace, one="1", two="2"))
    client.apply(made)
    changed = client.apply(ConfigMap(metadata=ObjectMeta(name="config", namespace=tiphys_namespace), data={"one": "1"}))
    assert changed.data == {"one": "1"}
    assert [entry.manager for entry in changed.metadata.managedFields] == ["example"]
