"""What pods are changed to, judged by their node; trust bundles, groups of pods. Words of kube-apiserver v1.36."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.apiserver.admission.parts import Allowing, Objects, parts, pod, run, write
from tiphys.apiserver.admission.certificates import ClusterTrustBundleAttest
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.node_features import NodeDeclaredFeatureValidator
from tiphys.apiserver.admission.pod_groups import PodGroupWorkloadExists
from tiphys.apiserver.admission.pod_resize import PodResizeValidator
from tiphys.machinery.errors import StatusError

Object = dict[str, Any]


@pytest.fixture
def objects() -> Objects:
    """A Linux node, a Windows node, and one that declares features."""
    found = Objects()
    allocatable = {"allocatable": {"cpu": "4", "memory": "4Gi"}}
    found.add("", "nodes", "linux", status=allocatable)
    found.add("", "nodes", "windows", status=allocatable, metadata={"labels": {"kubernetes.io/os": "windows"}})
    features = ["InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"]
    found.add("", "nodes", "new", status={**allocatable, "declaredFeatures": features})
    return found


async def refusal(plugin: Any, attributes: AdmissionAttributes) -> tuple[str, Any] | None:
    try:
        await run(plugin, attributes)
    except StatusError as error:
        told = error.message.removeprefix('pods "p" is forbidden: ') if error.code == 403 else str(error.status)
        return told, error.status["details"].get("causes")
    return None


def container(name: str = "c", restart: str = "", **requests: str) -> Object:
    found: Object = {"name": name, "image": "i", "resources": {"requests": requests}}
    return {**found, "restartPolicy": restart} if restart else found


def resize(new: Object, old: Object) -> AdmissionAttributes:
    return write("v1/pods", new, old, subresource="resize")


SHORT = "node didn't have enough allocatable resources: "
CAPACITY = [{"reason": "NodeCapacity"}]


@pytest.mark.parametrize(
    ("node", "requests", "told"),
    [
        pytest.param("linux", {"cpu": "4", "memory": "4Gi"}, None, id="fits"),
        pytest.param("linux", {"cpu": "1"}, None, id="as it was"),
        pytest.param("", {"cpu": "8"}, None, id="no node yet"),
        pytest.param("absent", {"cpu": "1"}, None, id="nothing changed, no node needed"),
        pytest.param("absent", {"cpu": "2"}, ('node "absent" not found', None), id="node is gone"),
        pytest.param(
            "linux", {"cpu": "4001m"}, (SHORT + "cpu, requested: 4001, allocatable: 4000", CAPACITY), id="cpu"
        ),
        pytest.param(
            "linux",
            {"cpu": "8", "memory": "8Gi"},
            (
                SHORT + "cpu, requested: 8000, allocatable: 4000; memory, requested: 8589934592, allocatable: "
                "4294967296",
                CAPACITY,
            ),
            id="both",
        ),
        pytest.param(
            "windows",
            {"cpu": "2"},
            (
                'pod resize is only supported on linux nodes, node "windows" is "windows"',
                [{"reason": "UnsupportedPlatform"}],
            ),
            id="windows",
        ),
    ],
)
async def test_resize(objects: Objects, node: str, requests: dict[str, str], told: Any) -> None:
    old = pod(nodeName=node, containers=[container(cpu="1")])
    new = pod(nodeName=node, containers=[container(**requests)])
    assert await refusal(PodResizeValidator(parts(objects)), resize(new, old)) == told


async def test_resize_counts_the_pod_as_its_node_does(objects: Objects) -> None:
    """Sidecars with containers, init containers by the highest, the pod's own resources instead of the sum."""
    plugin = PodResizeValidator(parts(objects))
    old = pod(nodeName="linux")
    before = [container("i", cpu="5"), container("s", "Always", cpu="1500m")]
    new = pod(nodeName="linux", initContainers=before, containers=[container(cpu="1"), container("b", cpu="3")])
    assert await refusal(plugin, resize(new, old)) == (SHORT + "cpu, requested: 5500, allocatable: 4000", CAPACITY)
    new["spec"]["containers"].pop()
    assert await refusal(plugin, resize(new, old)) == (SHORT + "cpu, requested: 5000, allocatable: 4000", CAPACITY)
    new["spec"]["resources"] = {"requests": {"cpu": "3"}}
    assert await refusal(plugin, resize(new, old)) is None


POD_LEVEL = "pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node"
INIT = "pod update requires features InPlacePodVerticalScalingInitContainers which are not available on node"


@pytest.mark.parametrize(
    ("node", "change", "told"),
    [
        pytest.param("linux", {"resources": {"requests": {"cpu": "3"}}}, f'{POD_LEVEL} "linux"', id="of the pod"),
        pytest.param("new", {"resources": {"requests": {"cpu": "3"}}}, None, id="declared"),
        pytest.param("", {"resources": {"requests": {"cpu": "3"}}}, None, id="no node yet"),
        pytest.param("absent", {"resources": {}}, None, id="nothing needed"),
        pytest.param("absent", {"resources": {"requests": {}}}, 'node "absent" not found', id="node is gone"),
        pytest.param("linux", {"initContainers": [container("i", cpu="2")]}, f'{INIT} "linux"', id="init container"),
        pytest.param("linux", {"initContainers": [container("s", "Always", cpu="2")]}, None, id="sidecar"),
        pytest.param("linux", {"containers": [container(cpu="2")]}, None, id="container"),
    ],
)
async def test_features(objects: Objects, node: str, change: Object, told: str | None) -> None:
    old = pod(nodeName=node, containers=[container(cpu="1")])
    if "initContainers" in change:
        restart = change["initContainers"][0].get("restartPolicy", "")
        old["spec"]["initContainers"] = [container("i", restart, cpu="1")]
    new = {**old, "spec": {**old["spec"], **change}}
    found = await refusal(NodeDeclaredFeatureValidator(parts(objects)), resize(new, old))
    assert found == (None if told is None else (told, None))


def bundle(signer: str = "", **metadata: Any) -> Object:
    return {"metadata": {"name": "b", **metadata}, "spec": {"signerName": signer} if signer else {}}


@pytest.mark.parametrize(
    ("signer", "allowed"),
    [("", True), ("example.com/ok", True), ("foo.com/any", True), ("example.com/no", False)],
)
async def test_trust_bundles(objects: Objects, signer: str, allowed: bool) -> None:
    authorizer = Allowing(("attest", "signers", "example.com/ok"), ("attest", "signers", "foo.com/*"))
    plugin = ClusterTrustBundleAttest(parts(objects, authorizer=authorizer))
    path = "certificates.k8s.io/v1beta1/clustertrustbundles"
    told = 'clustertrustbundles.certificates.k8s.io "b" is forbidden: user not permitted to attest for signerName '
    expected = None if allowed else (f'{told}"{signer}"', None)
    assert await refusal(plugin, write(path, bundle(signer))) == expected
    assert await refusal(plugin, write(path, bundle(signer, labels={"a": "b"}), bundle(signer))) == expected
    # What the garbage collector writes is nobody's attestation.
    assert await refusal(plugin, write(path, bundle(signer, finalizers=["a/b"]), bundle(signer))) is None


@pytest.mark.parametrize(
    ("workload", "template", "told"),
    [
        ("w", "t", None),
        ("nope", "t", 'Workload "nope" not found'),
        ("w", "nope", 'PodGroupTemplate "nope" not found in Workload "w"'),
    ],
)
async def test_groups_of_pods(objects: Objects, workload: str, template: str, told: str | None) -> None:
    objects.add("scheduling.k8s.io", "workloads", "w", "default", spec={"podGroupTemplates": [{"name": "t"}]})
    plugin = PodGroupWorkloadExists(parts(objects))
    group = {
        "metadata": {"name": "g"},
        "spec": {"podGroupTemplateRef": {"workload": {"workloadName": workload, "podGroupTemplateName": template}}},
    }
    path = "scheduling.k8s.io/v1alpha2/podgroups"
    prefix = 'podgroups.scheduling.k8s.io "g" is forbidden: PodGroup rejected: '
    assert await refusal(plugin, write(path, group)) == (None if told is None else (prefix + told, None))
    assert await refusal(plugin, write(path, {"metadata": {"name": "alone"}, "spec": {}})) is None
