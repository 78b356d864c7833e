"""ImagePolicyWebhook: a real HTTPS service judges the images of pods. Messages are those of kube-apiserver v1.36."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.integration.apiserver.cluster import Cluster, secured_cluster
from tests.integration.apiserver.https_service import Service, https_service
from tiphys.apiserver.audit.options import AuditOptions
from tiphys.apiserver.configfile import ConfigError

PODS = "/api/v1/namespaces/d/pods"
AUDIT = "imagepolicywebhook.image-policy.k8s.io/"


async def judge(service: Service, request: web.Request, body: Any) -> web.Response:
    """Says what the first image's name asks for."""
    image = body["spec"]["containers"][0]["image"]
    if image == "broken":
        return web.Response(status=500)
    if image == "nothing":
        return web.Response(text="{garbage")
    status: dict[str, Any] = {"allowed": image.startswith("good")}
    if image == "bad-reason":
        status["reason"] = "it is bad"
    if image == "good-noted":
        status["auditAnnotations"] = {"seen": "yes"}
    return web.json_response({**body, "status": status})


def configuration(directory: Path, **policy: Any) -> Path:
    """The file of --admission-control-config-file."""
    file = directory / "admission.yaml"
    plugin = {"name": "ImagePolicyWebhook", "configuration": {"imagePolicy": policy}}
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [plugin],
    }
    file.write_text(yaml.safe_dump(document))
    return file


def options(directory: Path, **policy: Any) -> dict[str, Any]:
    return {
        "enable_admission": ("ImagePolicyWebhook",),
        "admission_configuration": configuration(directory, retryBackoff=1, **policy),
    }


async def asked(cluster: Cluster, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and answer of an administrator's request."""
    return await cluster.ask(method, path, body, context=cluster.context("root", "system:masters"))


async def create(cluster: Cluster, *images: str, annotations: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and message of a pod of these images, that is not kept."""
    containers = [{"name": f"c{index}", "image": image} for index, image in enumerate(images)]
    pod = {"metadata": {"name": "p", "annotations": annotations or {}}, "spec": {"containers": containers}}
    status, answer = await asked(cluster, "POST", PODS + "?dryRun=All", pod)
    return status, answer.get("message")


async def test_verdicts(tmp_path: Path) -> None:
    async with https_service(tmp_path, judge) as service:
        found = options(tmp_path, kubeConfigFile=str(service.kubeconfig("/images", token="me")))
        async with secured_cluster(tmp_path, **found) as cluster:
            notes = {"mine.image-policy.k8s.io/ticket": "7", "other/x": "y"}
            assert await create(cluster, "good", "second", annotations=notes) == (201, None)
            (path, headers, review) = service.asked.pop()
            assert (path, headers["authorization"]) == ("/images", "Bearer me")
            assert review == {
                "kind": "ImageReview",
                "apiVersion": "imagepolicy.k8s.io/v1alpha1",
                "metadata": {},
                "spec": {
                    "containers": [{"image": "good"}, {"image": "second"}],
                    "annotations": {"mine.image-policy.k8s.io/ticket": "7"},
                    "namespace": "d",
                },
                "status": {"allowed": False},
            }
            prefix = 'pods "p" is forbidden: '
            for _ in range(2):  # the second time from memory
                told = prefix + "one or more images rejected by webhook backend"
                assert await create(cluster, "bad") == (403, told)
            assert len(service.asked) == 1
            told = prefix + "image policy webhook backend denied one or more images: it is bad"
            assert await create(cluster, "bad-reason") == (403, told)


async def test_containers_put_in_and_changed(tmp_path: Path) -> None:
    async with https_service(tmp_path, judge) as service:
        found = options(tmp_path, kubeConfigFile=str(service.kubeconfig()))
        async with secured_cluster(tmp_path, **found) as cluster:
            pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "good"}]}}
            assert (await asked(cluster, "POST", PODS, pod))[0] == 201
            _, pod = await asked(cluster, "GET", f"{PODS}/p")
            service.asked.clear()
            pod["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "bad"}]
            assert (await asked(cluster, "PUT", f"{PODS}/p/ephemeralcontainers", pod))[0] == 403
            assert service.asked.pop()[2]["spec"]["containers"] == [{"image": "bad"}]
            del pod["spec"]["ephemeralContainers"]
            pod["spec"]["containers"][0]["image"] = "bad-too"
            assert (await asked(cluster, "PUT", f"{PODS}/p", pod))[0] == 403


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("broken", 'an error on the server ("unknown") has prevented the request from succeeding'),
        ("nothing", "couldn't get version/kind; json parse error: "),
    ],
)
async def test_a_service_that_fails(tmp_path: Path, image: str, told: str) -> None:
    async with https_service(tmp_path, judge) as service:
        kubeconfig = str(service.kubeconfig())
        async with secured_cluster(tmp_path, **options(tmp_path, kubeConfigFile=kubeconfig)) as cluster:
            status, message = await create(cluster, image)
            assert (status, message.startswith(f'pods "p" is forbidden: {told}')) == (403, True)
            assert len(service.asked) == (5 if image == "broken" else 1)


async def test_failing_open_is_written_down(tmp_path: Path) -> None:
    policy, log = tmp_path / "policy.yaml", tmp_path / "audit.log"
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
    async with https_service(tmp_path, judge) as service:
        found = options(tmp_path, kubeConfigFile=str(service.kubeconfig()), defaultAllow=True)
        audit = AuditOptions(policy=policy, log_path=str(log))
        async with secured_cluster(tmp_path, audit=audit, **found) as cluster:
            assert await create(cluster, "broken") == (201, None)
            assert await create(cluster, "good-noted") == (201, None)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    notes = [event.get("annotations") or {} for event in events if event["requestURI"].startswith(PODS)]
    assert {AUDIT + "failed-open": "true"}.items() <= notes[1].items()
    assert {AUDIT + "seen": "yes"}.items() <= notes[-1].items()


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({}, "invalid configuration: no configuration has been provided, try setting KUBERNETES_MASTER environment"),
        ({"kubeConfigFile": "/nope"}, "stat /nope: no such file or directory"),
        ({"kubeConfigFile": "/nope", "allowTTL": 3600}, "valid value is between 1s and 30m0s, got "),
        ({"kubeConfigFile": "/nope", "retryBackoff": -5}, "valid value is between 1ns and 5m0s, got -5ms"),
    ],
)
async def test_configurations_that_are_refused(tmp_path: Path, policy: dict[str, Any], problem: str) -> None:
    found: dict[str, Any] = {
        "enable_admission": ("ImagePolicyWebhook",),
        "admission_configuration": configuration(tmp_path, **policy),
    }
    with pytest.raises(ConfigError) as error:
        async with secured_cluster(tmp_path, **found):
            pass
    prefix = 'failed to apply admission: couldn\'t init admission plugin "ImagePolicyWebhook": '
    assert str(error.value).startswith(prefix + problem)
