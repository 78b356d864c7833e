"""ResourceQuota: usage by table, scopes by table, and the counters."""

import asyncio
from typing import Any

import pytest

from tests.unit.apiserver.admission.parts import Objects, parts, pod, run, write
from tiphys.apiserver.admission.quota.plugin import ResourceQuota
from tiphys.apiserver.admission.quota.scopes import in_scopes
from tiphys.apiserver.admission.quota.usage import usage_of
from tiphys.machinery.errors import ForbiddenError


def asking(name: str = "c", restart: str = "", **requests: str) -> dict[str, Any]:
    limits = {key.removeprefix("limit_"): value for key, value in requests.items() if key.startswith("limit_")}
    asked = {key: value for key, value in requests.items() if not key.startswith("limit_")}
    found: dict[str, Any] = {"name": name, "resources": {"requests": asked, "limits": limits}}
    return found | ({"restartPolicy": restart} if restart else {})


@pytest.mark.parametrize(
    ("group", "resource", "obj", "expected"),
    [
        ("", "configmaps", {}, {"count/configmaps": "1", "configmaps": "1"}),
        ("apps", "deployments", {}, {"count/deployments.apps": "1"}),
        ("", "pods", {"status": {"phase": "Failed"}}, {"count/pods": "1"}),
        (
            "",
            "pods",
            pod(containers=[asking(cpu="100m", limit_cpu="1"), asking("d", cpu="200m")]),
            {"count/pods": "1", "pods": "1", "cpu": "300m", "requests.cpu": "300m", "limits.cpu": "1"},
        ),
        # A sidecar runs beside the containers, an init container before them.
        (
            "",
            "pods",
            pod(
                initContainers=[asking("s", "Always", cpu="100m"), asking("i", cpu="1")],
                containers=[asking(cpu="200m")],
                overhead={"cpu": "10m"},
            ),
            {"count/pods": "1", "pods": "1", "cpu": "1110m", "requests.cpu": "1110m"},
        ),
        (
            "",
            "pods",
            pod(containers=[{"name": "c", "resources": {"requests": {"example.com/gpu": "2"}}}]),
            {"count/pods": "1", "pods": "1", "requests.example.com/gpu": "2"},
        ),
        (
            "",
            "services",
            {"spec": {"type": "LoadBalancer", "ports": [{}, {}]}},
            {"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "1"},
        ),
        (
            "",
            "services",
            {"spec": {"type": "ClusterIP", "ports": [{}]}},
            {"count/services": "1", "services": "1", "services.nodeports": "0", "services.loadbalancers": "0"},
        ),
        (
            "",
            "persistentvolumeclaims",
            {"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}},
            {
                "count/persistentvolumeclaims": "1",
                "persistentvolumeclaims": "1",
                "requests.storage": "1Gi",
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
                "fast.storageclass.storage.k8s.io/requests.storage": "1Gi",
            },
        ),
    ],
)
def test_usage(group: str, resource: str, obj: dict[str, Any], expected: dict[str, str]) -> None:
    assert {name: str(amount) for name, amount in usage_of(group, resource, obj).items()} == expected


AFFINITY = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["x"]}]}}


@pytest.mark.parametrize(
    ("quota", "obj", "expected"),
    [
        ({}, pod(), True),
        ({"scopes": ["BestEffort"]}, pod(), True),
        ({"scopes": ["BestEffort"]}, pod(containers=[asking(cpu="1")]), False),
        ({"scopes": ["NotBestEffort"]}, pod(containers=[asking(limit_memory="1Mi")]), True),
        ({"scopes": ["Terminating"]}, pod(activeDeadlineSeconds=5), True),
        ({"scopes": ["NotTerminating", "BestEffort"]}, pod(activeDeadlineSeconds=5), False),
        ({"scopes": ["CrossNamespacePodAffinity"]}, pod(affinity=AFFINITY), True),
        ({"scopes": ["CrossNamespacePodAffinity"]}, pod(), False),
        ({"scopes": ["PriorityClass"]}, pod(priorityClassName="high"), True),
        ({"scopes": ["Unheard"]}, pod(), False),
    ],
)
def test_scopes(quota: dict[str, Any], obj: dict[str, Any], expected: bool) -> None:
    assert in_scopes({"spec": quota}, "pods", obj) is expected


@pytest.mark.parametrize(
    ("operator", "values", "name", "expected"),
    [
        ("In", ["high"], "high", True),
        ("In", ["high"], "low", False),
        ("NotIn", ["high"], "", True),
        ("Exists", [], "", False),
        ("DoesNotExist", [], "", True),
    ],
)
def test_scope_selectors(operator: str, values: list[str], name: str, expected: bool) -> None:
    term = {"scopeName": "PriorityClass", "operator": operator, "values": values}
    quota = {"spec": {"scopeSelector": {"matchExpressions": [term]}}}
    assert in_scopes(quota, "pods", pod(priorityClassName=name)) is expected


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> tuple[ResourceQuota, Objects]:
    objects = Objects()
    status = {"hard": hard, "used": dict.fromkeys(hard, "0") if used is None else used}
    objects.add("", "resourcequotas", "q", "default", spec={"hard": hard, **spec}, status=status)
    return ResourceQuota(parts(objects)), objects


def used(objects: Objects) -> dict[str, str]:
    found = objects.get("", "resourcequotas", ("default", "q"))
    assert found is not None
    return dict(found["status"]["used"])


async def test_counters_rise_before_the_write() -> None:
    plugin, objects = quota({"pods": "2", "requests.cpu": "1"})
    await run(plugin, write("v1/pods", pod(containers=[asking(cpu="400m")])))
    assert used(objects) == {"pods": "1", "requests.cpu": "400m"}


async def test_what_is_too_much_is_refused_with_all_numbers() -> None:
    plugin, objects = quota({"pods": "1", "requests.cpu": "1"}, {"pods": "1", "requests.cpu": "800m"})
    expected = (
        'pods "p" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=400m, '
        "used: pods=1,requests.cpu=800m, limited: pods=1,requests.cpu=1"
    )
    with pytest.raises(ForbiddenError) as refused:
        await run(plugin, write("v1/pods", pod(containers=[asking(cpu="400m")])))
    assert refused.value.message == expected
    assert used(objects) == {"pods": "1", "requests.cpu": "800m"}


async def test_containers_must_say_what_is_limited() -> None:
    plugin, _ = quota({"limits.cpu": "1", "requests.memory": "1Gi"})
    bad = pod(containers=[asking(memory="1Mi"), asking("d")])
    with pytest.raises(
        ForbiddenError, match=r"failed quota: q: must specify limits\.cpu for: c,d; requests\.memory for: d"
    ):
        await run(plugin, write("v1/pods", bad))


async def test_a_quota_that_was_not_counted_yet_refuses() -> None:
    plugin, _ = quota({"pods": "1"}, {})
    with pytest.raises(ForbiddenError, match="status unknown for quota: q, resources: pods"):
        await run(plugin, write("v1/pods", pod()))


async def test_a_dry_run_is_judged_and_not_counted() -> None:
    plugin, objects = quota({"pods": "1"})
    await run(plugin, write("v1/pods", pod(), dry_run=True))
    assert used(objects) == {"pods": "0"}


async def test_an_update_counts_its_difference_down_as_well() -> None:
    plugin, objects = quota({"services.nodeports": "2"}, {"services.nodeports": "2"})
    ports = [{"port": 1}, {"port": 2}]
    old = {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": ports}}
    new = {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": ports[:1]}}
    await run(plugin, write("v1/services", new, old))
    assert used(objects) == {"services.nodeports": "1"}
    with pytest.raises(ForbiddenError, match="exceeded quota"):
        three = {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [*ports, {"port": 3}]}}
        await run(plugin, write("v1/services", three, new))


async def test_the_last_place_is_taken_once() -> None:
    plugin, objects = quota({"count/configmaps": "3"})
    writes = [run(plugin, write("v1/configmaps", {"metadata": {"name": str(one)}})) for one in range(10)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(result, ForbiddenError) for result in results) == 7
    assert used(objects) == {"count/configmaps": "3"}


async def test_other_namespaces_and_events_are_left_alone() -> None:
    plugin, _ = quota({"count/configmaps": "0", "count/events": "0"})
    await run(plugin, write("v1/configmaps", {"metadata": {"name": "a"}}, namespace="other"))
    await run(plugin, write("v1/events", {"metadata": {"name": "a"}}))
