"""Expansion, service variables, resolvers, hosts files, identities, limits, images."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.unit.kubelet.builders import make_pod
from tiphys.api.core.v1 import ResourceFieldSelector, Secret, Service, ServicePort, ServiceSpec
from tiphys.api.cri import api_pb2 as cri
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.kubelet.containers.credentials import credentials_for
from tiphys.kubelet.containers.dns import Resolver, parse_resolv_conf, pod_resolver
from tiphys.kubelet.containers.errors import ConfigError
from tiphys.kubelet.containers.expansion import expand
from tiphys.kubelet.containers.fields import format_map, resource_value
from tiphys.kubelet.containers.hosts import hosts_file, kernel_hostname, pod_hostname
from tiphys.kubelet.containers.limits import container_resources
from tiphys.kubelet.containers.references import InvalidReference, normalize, with_default_tag
from tiphys.kubelet.containers.security import container_security
from tiphys.kubelet.containers.service_env import service_environment
from tiphys.kubelet.qos import oom_score_adj, qos_class

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$(A)", "1"),
        ("$(B)$(A)", "$(B)1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$", "$"),
        ("$(A", "$(A"),
        ("$A", "$A"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_service_variables() -> None:
    def service(name: str, namespace: str, ip: str, *ports: ServicePort) -> Service:
        meta = ObjectMeta(name=name, namespace=namespace)
        return Service(metadata=meta, spec=ServiceSpec(cluster_ip=ip, ports=ports))

    services = [
        service("kubernetes", "default", "10.0.0.1", ServicePort(name="https", port=443, protocol="TCP")),
        service("my-db", "prod", "10.0.0.2", ServicePort(port=53, protocol="UDP")),
        service("headless", "prod", "None", ServicePort(port=1)),
    ]
    assert service_environment(services, "prod", links=True) == {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": "tcp://10.0.0.1:443",
        "KUBERNETES_PORT_443_TCP": "tcp://10.0.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
        "KUBERNETES_PORT_443_TCP_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.0.0.1",
        "MY_DB_SERVICE_HOST": "10.0.0.2",
        "MY_DB_SERVICE_PORT": "53",
        "MY_DB_PORT": "udp://10.0.0.2:53",
        "MY_DB_PORT_53_UDP": "udp://10.0.0.2:53",
        "MY_DB_PORT_53_UDP_PROTO": "udp",
        "MY_DB_PORT_53_UDP_PORT": "53",
        "MY_DB_PORT_53_UDP_ADDR": "10.0.0.2",
    }
    assert not any(name.startswith("MY_DB") for name in service_environment(services, "prod", links=False))


HOST = Resolver(("8.8.8.8",), ("example.com",), ("ndots:2",))
CLUSTER = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, Resolver(("10.96.0.10",), CLUSTER, ("ndots:5",))),
        ({"dnsPolicy": "Default"}, HOST),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, HOST),
        (
            {"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True},
            Resolver(("10.96.0.10",), CLUSTER, ("ndots:5",)),
        ),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["1.1.1.1"],
                    "searches": ["x"],
                    "options": [{"name": "ndots", "value": "3"}],
                },
            },
            Resolver(("1.1.1.1",), ("x",), ("ndots:3",)),
        ),
        (
            {"dnsConfig": {"options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}]}},
            Resolver(("10.96.0.10",), CLUSTER, ("ndots:1", "edns0")),
        ),
    ],
    ids=["cluster first", "default", "host network", "host network with cluster DNS", "none", "options merged"],
)
def test_dns_policies(spec: dict[str, Any], expected: Resolver) -> None:
    assert pod_resolver(make_pod(**spec), HOST, ("10.96.0.10",), "cluster.local") == expected


def test_resolv_conf_is_read() -> None:
    text = "# comment\nnameserver 1.1.1.1\nsearch a. b\nsearch c d.\noptions ndots:2 edns0\noptions rotate\n"
    assert parse_resolv_conf(text) == Resolver(("1.1.1.1",), ("c", "d"), ("ndots:2", "edns0", "rotate"))


def test_names_of_a_pod() -> None:
    pod = make_pod(hostname="db", subdomain="set", hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}])
    assert pod_hostname(pod, "cluster.local") == ("db", "set.default.svc.cluster.local")
    hosts = hosts_file(pod, ("10.0.0.1",), "cluster.local", "")
    assert "\n10.0.0.1\tdb.set.default.svc.cluster.local\tdb\n" in hosts
    assert hosts.endswith("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")
    assert kernel_hostname(make_pod(metadata={"name": "x" * 70}), "cluster.local") == "x" * 63
    with pytest.raises(ValueError, match="is too long"):
        kernel_hostname(make_pod(subdomain="s" * 60, setHostnameAsFQDN=True), "cluster.local")


def test_labels_as_a_file() -> None:
    assert format_map({"b": 'say "hi"', "a": "1\n2"}) == 'a="1\\n2"\nb="say \\"hi\\""'


@pytest.mark.parametrize(
    ("pod_context", "context", "image", "message"),
    [
        ({"runAsNonRoot": True}, {}, cri.Image(), "image will run as root"),
        ({"runAsNonRoot": True}, {"runAsUser": 0}, cri.Image(), "runAsUser breaks non-root policy"),
        ({}, {"runAsNonRoot": True}, cri.Image(username="app"), "non-numeric user (app)"),
    ],
    ids=["image is root", "spec is root", "name"],
)
def test_run_as_non_root_is_kept(
    pod_context: dict[str, Any], context: dict[str, Any], image: cri.Image, message: str
) -> None:
    pod = make_pod({"name": "app", "securityContext": context}, securityContext=pod_context)
    with pytest.raises(ConfigError) as caught:
        container_security(pod, pod.spec.containers[0], image)
    assert message in caught.value.message


def test_the_container_wins_over_the_pod() -> None:
    own = {"runAsUser": 2, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    shared = {"runAsUser": 1, "runAsGroup": 3, "fsGroup": 4, "supplementalGroups": [5]}
    pod = make_pod({"name": "app", "securityContext": own}, securityContext=shared)
    made = container_security(pod, pod.spec.containers[0], cri.Image())
    assert (made.run_as_user.value, made.run_as_group.value) == (2, 3)
    assert list(made.supplemental_groups) == [5, 4]
    assert made.no_new_privs and list(made.capabilities.drop_capabilities) == ["ALL"]
    assert "/proc/kcore" in made.masked_paths


def limits(**resources: Any) -> dict[str, Any]:
    return {"name": "app", "resources": resources}


@pytest.mark.parametrize(
    ("container", "quality", "score"),
    [
        ({"name": "app"}, "BestEffort", 1000),
        (
            limits(requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "1", "memory": "1Gi"}),
            "Guaranteed",
            -997,
        ),
        (limits(requests={"memory": "1Gi"}), "Burstable", 750),
        (limits(requests={"memory": "1Ki"}), "Burstable", 999),
        (limits(requests={"memory": "4Gi"}), "Burstable", 3),
        (limits(requests={"cpu": "0"}), "BestEffort", 1000),
    ],
    ids=["best effort", "guaranteed", "burstable", "little", "everything", "zero"],
)
def test_quality_of_service(container: dict[str, Any], quality: str, score: int) -> None:
    pod = make_pod(container)
    assert qos_class(pod) == quality
    assert oom_score_adj(pod, pod.spec.containers[0], 4 * GIB) == score


@pytest.mark.parametrize(
    ("asked", "level", "scores"),
    [
        (("0", "0", "0"), {"requests": {"memory": "180Gi"}}, [940, 940, 940]),
        (("50Gi", "100Gi", "0"), {"requests": {"memory": "180Gi"}}, [940, 890, 990]),
        (("50Gi", "100Gi", "0"), {"requests": {"cpu": "1"}}, [950, 900, 999]),
        (("50Gi", "0", "0"), {kind: {"cpu": "1", "memory": "180Gi"} for kind in ("requests", "limits")}, [-997] * 3),
    ],
    ids=["nothing of their own", "more than their own", "no memory", "guaranteed"],
)
def test_a_pods_own_memory_counts_for_its_containers(
    asked: tuple[str, ...], level: dict[str, Any], scores: list[int]
) -> None:
    """The examples of KEP-2837, on a node with 1000 Gi."""
    containers = [limits(requests={"memory": memory}) | {"name": f"c{n}"} for n, memory in enumerate(asked)]
    pod = make_pod(*containers, resources=level)
    assert [oom_score_adj(pod, container, 1000 * GIB) for container in pod.spec.containers] == scores


def test_limits_for_the_runtime() -> None:
    pod = make_pod(limits(requests={"cpu": "250m"}, limits={"cpu": "500m", "memory": "64Mi"}))
    made = container_resources(pod, pod.spec.containers[0], memory_capacity=4 * GIB)
    assert (made.cpu_shares, made.cpu_quota, made.cpu_period) == (256, 50_000, 100_000)
    assert made.memory_limit_in_bytes == 64 * 1024**2


@pytest.mark.parametrize(
    ("image", "tagged", "full"),
    [
        ("busybox", "busybox:latest", "docker.io/library/busybox"),
        ("me/app:1", "me/app:1", "docker.io/me/app:1"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app"),
        ("ghcr.io/a/b@sha256:" + "0" * 64, "ghcr.io/a/b@sha256:" + "0" * 64, "ghcr.io/a/b@sha256:" + "0" * 64),
    ],
)
def test_image_names(image: str, tagged: str, full: str) -> None:
    assert with_default_tag(image) == tagged
    assert normalize(image) == full


@pytest.mark.parametrize("image", ["", "Not A Name", "a//b", ":tag", "a:"])
def test_broken_image_names(image: str) -> None:
    with pytest.raises(InvalidReference):
        with_default_tag(image)


def test_the_most_specific_credentials_come_first() -> None:
    auths = {
        "registry.example.com": {"auth": base64.b64encode(b"all:1").decode()},
        "registry.example.com/team": {"username": "team", "password": "2"},
        "other.example.com": {"username": "no", "password": "no"},
        "*.example.com": {"username": "any", "password": "3"},
    }
    secret = Secret(data={".dockerconfigjson": json.dumps({"auths": auths}).encode()})
    found = credentials_for("registry.example.com/team/app:1", [secret])
    assert [auth.username for auth in found] == ["team", "all", "any"]
    assert credentials_for("busybox", [secret, Secret(data={".dockerconfigjson": b"broken"})]) == []


@pytest.mark.parametrize(
    ("limits", "level", "expected"),
    [({"memory": "1Mi"}, {"memory": "2Mi"}, 1 << 20), ({}, {"memory": "2Mi"}, 2 << 20), ({}, {}, 4 << 20)],
    ids=["its own", "the pod's", "the node's"],
)
def test_a_limit_reads_as_what_bounds_the_container(
    limits: dict[str, str], level: dict[str, str], expected: int
) -> None:
    pod = make_pod({"name": "app", "resources": {"limits": limits}}, resources={"limits": level})
    selector = ResourceFieldSelector(resource="limits.memory")
    assert resource_value(pod, pod.spec.containers[0], selector, {"memory": "4Mi"}) == str(expected)


def test_a_pods_own_limits_bound_containers_that_have_none() -> None:
    free, own = {"name": "free"}, {"name": "own", "resources": {"limits": {"memory": "1Mi"}}}
    pod = make_pod(free, own, resources={"limits": {"cpu": "200m", "memory": "2Mi"}})
    found = [container_resources(pod, container, memory_capacity=GIB) for container in pod.spec.containers]
    assert [(one.memory_limit_in_bytes, one.cpu_quota, one.cpu_shares) for one in found] == [
        (2 << 20, 20_000, 2),
        (1 << 20, 20_000, 2),
    ]
