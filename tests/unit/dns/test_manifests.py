"""The objects of kube-system fit together and fit the types."""

from __future__ import annotations

import msgspec

from tiphys.api.apps.v1 import Deployment
from tiphys.api.core.v1 import ConfigMap, Service
from tiphys.api.rbac.v1 import ClusterRole
from tiphys.dns.corefile import parse
from tiphys.dns.manifests import corefile, manifests
from tiphys.dns.table import PLUGINS

TYPES = {"Deployment": Deployment, "Service": Service, "ConfigMap": ConfigMap, "ClusterRole": ClusterRole}


def test_objects_fit_their_types_and_each_other() -> None:
    made = {each["kind"]: each for each in manifests(image="system:1")}
    typed = {kind: msgspec.convert(made[kind], TYPES[kind]) for kind in TYPES}
    deployment, service = typed["Deployment"], typed["Service"]
    assert isinstance(deployment, Deployment) and isinstance(service, Service)
    assert service.spec.selector == deployment.spec.template.metadata.labels  # type: ignore[union-attr]
    assert service.spec.cluster_ip == "10.96.0.10"
    assert made["ConfigMap"]["data"]["Corefile"] == corefile("cluster.local")


def test_the_corefile_uses_only_what_there_is() -> None:
    (block,) = parse(corefile())
    assert {directive.name for directive in block.directives} <= set(PLUGINS)
    assert [(zone.name, zone.port) for zone in block.zones] == [(".", 53)]
