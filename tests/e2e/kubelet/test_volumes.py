"""Volumes and environment, seen from inside a container."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.e2e.kubelet.node import TestNode, eventually, leftovers
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import ConfigMap, Secret, Service, ServicePort, ServiceSpec
from tiphys.api.meta.v1 import ObjectMeta

pytestmark = pytest.mark.root


async def test_every_kind_of_volume(node: TestNode) -> None:
    meta = ObjectMeta(name="things", namespace="default")
    await node.client.create(ConfigMap(metadata=meta, data={"color": "red", "sub": "path"}))
    await node.client.create(Secret(metadata=meta, data={"password": b"hush"}))
    await node.create(
        "volumes",
        {
            "serviceAccountName": "default",
            "securityContext": {"fsGroup": 4000},
            "volumes": [
                {"name": "disk", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "config", "configMap": {"name": "things", "items": [{"key": "color", "path": "deep/color"}]}},
                {"name": "secret", "secret": {"secretName": "things", "defaultMode": 256}},
                {
                    "name": "fields",
                    "downwardAPI": {
                        "items": [
                            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                            {
                                "path": "cpu",
                                "resourceFieldRef": {"containerName": "app", "resource": "limits.cpu", "divisor": "1m"},
                            },
                        ]
                    },
                },
                {
                    "name": "projected",
                    "projected": {
                        "sources": [
                            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                        ]
                    },
                },
            ],
            "containers": [
                busybox(
                    "app",
                    "sleep",
                    "1000",
                    resources={"limits": {"cpu": "250m"}},
                    volumeMounts=[
                        {"name": "disk", "mountPath": "/disk"},
                        {"name": "disk", "mountPath": "/below", "subPath": "a/b"},
                        {"name": "memory", "mountPath": "/memory"},
                        {"name": "config", "mountPath": "/config"},
                        {"name": "config", "mountPath": "/one", "subPath": "deep/color"},
                        {"name": "secret", "mountPath": "/secret", "readOnly": True},
                        {"name": "fields", "mountPath": "/fields"},
                        {"name": "projected", "mountPath": "/projected"},
                    ],
                )
            ],
        },
        labels={"app": "volumes"},
    )
    pod = await node.running("volumes")
    seen = "; ".join(
        (
            "cat /config/deep/color; echo",
            "cat /one; echo",
            "cat /secret/password; echo",
            "cat /fields/labels; echo",
            "cat /fields/cpu; echo",
            "cut -c1-3 /projected/token",
            "cat /projected/ca.crt; echo",
            "df -P /memory | tail -1 | cut -d' ' -f1",
            "stat -c %g /disk",
            "ls -d /disk/a/b",
        )
    )
    lines = (await node.exec("volumes", "sh", "-c", seen)).split("\n")
    assert lines == [
        "red",
        "red",
        "hush",
        'app="volumes"',
        "250",
        "eyJ",
        "a certificate",
        "tmpfs",
        "4000",
        "/disk/a/b",
        "",
    ]
    assert "read-only" in (await node.exec("volumes", "touch", "/secret/x")).lower()
    await node.delete("volumes")
    await node.gone("volumes")
    assert leftovers(node)["mounts"] == []
    assert not (node.root / "kubelet" / "pods" / pod.metadata.uid).exists()


async def test_a_config_map_is_followed(node: TestNode) -> None:
    meta = ObjectMeta(name="live", namespace="default")
    made = await node.client.create(ConfigMap(metadata=meta, data={"color": "red"}))
    await node.create(
        "live",
        {
            "volumes": [{"name": "config", "configMap": {"name": "live"}}],
            "containers": [busybox("app", "sleep", "1000", volumeMounts=[{"name": "config", "mountPath": "/config"}])],
        },
    )
    await node.running("live")
    await node.client.update(replace(made, data={"color": "blue"}))

    async def blue() -> bool:
        return await node.exec("live", "cat", "/config/color") == "blue"

    await eventually(blue, "the new content")


async def test_a_missing_config_map_holds_the_pod_until_it_is_there(node: TestNode) -> None:
    await node.create(
        "later",
        {
            "volumes": [{"name": "config", "configMap": {"name": "later"}}],
            "containers": [busybox("app", "sleep", "1000", volumeMounts=[{"name": "config", "mountPath": "/config"}])],
        },
    )
    message = await node.event("later", "FailedMount")
    assert message == 'MountVolume.SetUp failed for volume "config" : configmap "later" not found'
    await node.client.create(ConfigMap(metadata=ObjectMeta(name="later", namespace="default"), data={"a": "b"}))
    await node.running("later")


async def test_the_environment(node: TestNode) -> None:
    meta = ObjectMeta(name="env", namespace="default")
    await node.client.create(ConfigMap(metadata=meta, data={"color": "red", "SHAPE": "round"}))
    await node.client.create(Secret(metadata=meta, data={"password": b"hush"}))
    service = Service(
        metadata=ObjectMeta(name="my-db", namespace="default"),
        spec=ServiceSpec(cluster_ip="10.96.0.55", ports=(ServicePort(port=5432),)),
    )
    made = await node.client.create(service)

    async def known() -> bool:
        assert node.kubelet is not None and node.kubelet.services is not None
        return bool(node.kubelet.services.services.list(namespace="default"))

    await eventually(known, "the service in the kubelet's cache")
    await node.create(
        "env",
        {
            "containers": [
                busybox(
                    "app",
                    "sleep",
                    "1000",
                    envFrom=[{"prefix": "CM_", "configMapRef": {"name": "env"}}],
                    env=[
                        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "env", "key": "password"}}},
                        {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        {"name": "BOTH", "value": "$(WHO)-$(CM_SHAPE)-$(NOBODY)-$$(WHO)-$(MY_DB_SERVICE_PORT)"},
                    ],
                )
            ]
        },
    )
    pod = await node.running("env")
    lines = dict(line.split("=", 1) for line in (await node.exec("env", "env")).splitlines())
    assert lines["CM_color"] == "red"
    assert lines["PASSWORD"] == "hush"
    assert lines["WHERE"] == pod.status.pod_ip
    assert lines["BOTH"] == "env-round-$(NOBODY)-$(WHO)-5432"
    assert lines["MY_DB_SERVICE_HOST"] == made.spec.cluster_ip
    hosts = await node.exec("env", "cat", "/etc/hosts")
    assert hosts.startswith("# Kubernetes-managed hosts file.\n") and f"{pod.status.pod_ip}\tenv\n" in hosts
    resolv = await node.exec("env", "cat", "/etc/resolv.conf")
    assert "nameserver 10.96.0.10" in resolv and "default.svc.cluster.local svc.cluster.local" in resolv
    assert (await node.exec("env", "hostname")).strip() == "env"


async def test_a_missing_key_is_the_reason_to_wait(node: TestNode) -> None:
    await node.client.create(ConfigMap(metadata=ObjectMeta(name="some", namespace="default"), data={"a": "b"}))
    variable = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "some", "key": "nope"}}}
    await node.create("keyless", {"containers": [busybox("app", "sleep", "1000", env=[variable])]})
    pod = await node.wait(
        "keyless",
        lambda pod: (
            bool(pod.status.container_statuses)
            and pod.status.container_statuses[0].state.waiting is not None
            and pod.status.container_statuses[0].state.waiting.reason == "CreateContainerConfigError"
        ),
        "CreateContainerConfigError",
    )
    message = pod.status.container_statuses[0].state.waiting.message
    assert message == "couldn't find key nope in ConfigMap default/some"
