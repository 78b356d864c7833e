"""What new objects hear of their mistakes, word for word as a v1.36 API server says it."""

# ruff: noqa: E501, ISC004

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.apiserver.registry.test_strategies import NoObjects
from tiphys.api.table import RESOURCES
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.registry.batch.job_validation import count_indexes
from tiphys.apiserver.registry.defaults.image import pull_policy_for
from tiphys.apiserver.registry.disabled import drop_disabled_fields
from tiphys.apiserver.registry.metadata_causes import repeated
from tiphys.apiserver.registry.strategies import strategy_for
from tiphys.apiserver.registry.strategy import RequestContext
from tiphys.machinery.field import Path, invalid

NOW = datetime(2024, 1, 1, tzinfo=UTC)
RESOURCE = {(one.group, one.plural): one for one in RESOURCES if one.preferred}


def judged(plural: str, obj: dict[str, Any], group: str = "") -> tuple[list[str], list[str]]:
    """Errors and warnings of a new object."""
    strategy = strategy_for(RESOURCE[group, plural])
    obj.setdefault("metadata", {}).setdefault("name", "x")
    obj["metadata"].setdefault("namespace", "n")
    strategy.default(obj)
    strategy.prepare_for_create(RequestContext(user=UserInfo("me"), now=NOW, reader=NoObjects()), obj)
    drop_disabled_fields(obj, strategy.pod_spec)
    return sorted(str(error) for error in strategy.validate(obj)), strategy.warnings(obj, None)


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


def volumes(*sources: dict[str, Any]) -> dict[str, Any]:
    return pod(volumes=[{"name": f"v{index}", **source} for index, source in enumerate(sources)])


PODS = {
    "DNS policy": (
        pod(dnsPolicy="x"),
        ['spec.dnsPolicy: Unsupported value: "x": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"'],
    ),
    "a hostname with dots": (pod(hostname="a.b"), ['spec.hostname: Invalid value: "a.b": must not contain dots']),
    "host network": (
        {"spec": {"hostNetwork": True, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": 2}]}]}},
        ["spec.containers[0].ports[0].hostPort: Invalid value: 2: must match `containerPort` when `hostNetwork` is true"],
    ),
    "gated and on a node": (
        pod(nodeName="n", schedulingGates=[{"name": "a"}]),
        ["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
    ),
    "two constraints alike": (
        pod(topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}] * 2),
        ['spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{z, ScheduleAnyway}"'],
    ),
    "overhead": (
        pod(overhead={"example.com/x": "1500m"}),
        ['spec.overhead.limits[example.com/x]: Invalid value: "1500m": must be an integer'],
    ),
    "one volume too many": (
        volumes({"emptyDir": {}, "downwardAPI": {}}),
        ["spec.volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type"],
    ),
    "old disks": (
        volumes({"gcePersistentDisk": {"pdName": "", "partition": 300}}, {"iscsi": {"iqn": "x", "targetPortal": "y"}}),
        [
            "spec.volumes[0].persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive",
            "spec.volumes[0].persistentDisk.pdName: Required value",
            'spec.volumes[1].iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa',
        ],
    ),
    "sources at one path": (
        volumes({"projected": {"sources": [
            {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
            {"serviceAccountToken": {"path": "p"}},
        ]}}),
        ['spec.volumes[0].projected: Invalid value: "s": conflicting duplicate paths'],
    ),
    "a claim of its own": (
        volumes({"ephemeral": {"volumeClaimTemplate": {
            "metadata": {"name": "c"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}, "volumeMode": ""},
        }}}),
        [
            "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
            'spec.volumes[0].ephemeral.volumeClaimTemplate.spec.volumeMode: Unsupported value: "": '
            'supported values: "Block", "Filesystem"',
        ],
    ),
    "gated fields are dropped": (
        pod(schedulingGroup={"podGroupName": "g"}, volumes=[{"name": "v", "projected": {"sources": [{"podCertificate": {}}]}}]),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("obj", "errors"), PODS.values(), ids=list(PODS))
def test_pods(obj: dict[str, Any], errors: list[str]) -> None:
    assert judged("pods", obj)[0] == errors


WARNINGS = {
    "files that meet": (
        volumes({"configMap": {"name": "m", "items": [{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}]}}),
        ['volume "v0" (ConfigMap "m"): overlapping paths: "x/y" with "x"'],
    ),
    "projected files that meet": (
        volumes({"projected": {"sources": [
            {"serviceAccountToken": {"path": "t"}},
            {"secret": {"name": "s", "items": [{"key": "k", "path": "t"}]}},
            {},
        ]}}),
        [
            'volume "v0" (Projected): overlapping paths: "t" (Secret "s") with "t" (ServiceAccountToken)',
            'volume "v0" (Projected) has no sources provided',
        ],
    ),
    "pull secrets": (
        pod(imagePullSecrets=[{"name": "a"}, {"name": "a"}, {}]),
        ['spec.imagePullSecrets[1].name: duplicate name "a"', 'spec.imagePullSecrets[2].name: invalid empty name ""'],
    ),
    "an address without a port": (
        {"spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostIP": "bad"}]}]}},
        ["spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:1 Protocol:TCP HostIP:bad}"],
    ),
    "a name with dots": (
        {"metadata": {"name": "a.b"}, **pod()},
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; "
            "a DNS label is recommended: [must not contain dots]"
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("obj", "warnings"), WARNINGS.values(), ids=list(WARNINGS))
def test_warnings_of_pods(obj: dict[str, Any], warnings: list[str]) -> None:
    assert judged("pods", obj) == ([], warnings)


def test_claims_of_stateful_sets_are_volumes_of_their_pods() -> None:
    mount = {"name": "d", "mountPath": "/d"}
    template = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [mount]}], "volumes": [{"name": "v w"}]},
    }
    claims = [
        {"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}
        for name in ("d", "e.f")
    ]  # fmt: skip
    spec: dict[str, Any] = {
        "selector": {"matchLabels": {"a": "b"}},
        "template": template,
        "volumeClaimTemplates": claims,
    }
    spec["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    obj: dict[str, Any] = {"spec": spec}
    errors, _ = judged("statefulsets", obj, "apps")
    assert [error.split(": ")[0] for error in errors] == [f"spec.template.spec.volumes[{at}].name" for at in (1, 2)]
    assert obj["spec"]["updateStrategy"]["rollingUpdate"] == {"partition": 0}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("host:5000/a", "Always"),
        ("A/b", "Always"),
        ("a:1", "IfNotPresent"),
        (f"a@sha256:{'0' * 64}", "IfNotPresent"),
        ("UPPER", "IfNotPresent"),
        ("a:b:c", "IfNotPresent"),
        ("x" * 254, "IfNotPresent"),
    ],
)
def test_the_policy_an_image_implies(image: str, policy: str) -> None:
    assert pull_policy_for(image) == policy


TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
AUTOSCALERS = {
    "another source than the type's": (
        [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 5}}, "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}],
        ["spec.metrics[0].external: Forbidden: must populate the given metric source only"],
    ),
    "no source of the type": (
        [{"type": "Pods"}],
        ["spec.metrics[0].pods: Required value: must populate information for the given metric source"],
    ),
    "both targets": (
        [{"type": "External", "external": {"metric": {"name": "a/b"}, "target": {"type": "Value", "value": "1", "averageValue": "1"}}}],
        [
            "spec.metrics[0].external.metric.name: Invalid value: \"a/b\": may not contain '/'",
            "spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("metrics", "errors"), AUTOSCALERS.values(), ids=list(AUTOSCALERS))
def test_metrics_of_autoscalers(metrics: list[dict[str, Any]], errors: list[str]) -> None:
    spec = {"scaleTargetRef": dict(TARGET), "maxReplicas": 1, "metrics": metrics}
    assert judged("horizontalpodautoscalers", {"spec": spec}, "autoscaling")[0] == errors


def test_bounds_and_targets_of_autoscalers() -> None:
    spec = {"scaleTargetRef": {"kind": "Pod", "name": "p", "apiVersion": "v1"}, "minReplicas": 0, "maxReplicas": 0}
    assert judged("horizontalpodautoscalers", {"spec": spec}, "autoscaling")[0] == [
        "spec.maxReplicas: Required value: must be set and greater than 0",
        "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
        "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
        'spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group',
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (0, "")),
        ("0,2-3", (3, "")),
        ("0-9", (0, 'too large index: "9"')),
        ("3-1", (0, "non-increasing order, previous: 3, current: 1")),
        ("1,1", (0, "non-increasing order, previous: 1, current: 1")),
        ("0-x", (0, 'cannot convert string to integer for index: "x"')),
    ],
)
def test_indexes_of_a_success_policy(text: str, found: tuple[int, str]) -> None:
    assert count_indexes(text, 4) == found


JOBS = {
    "managed by no path": (
        {"managedBy": "a"},
        ['spec.managedBy: Invalid value: "a": must be a domain-prefixed path (such as "acme.io/foo")'],
    ),
    "an unknown mode": (
        {"completionMode": "x", "backoffLimitPerIndex": 1},
        ['spec.completionMode: Unsupported value: "x": supported values: "NonIndexed", "Indexed"'],
    ),
    "an empty rule": (
        {"podFailurePolicy": {"rules": [{}]}},
        [
            'spec.podFailurePolicy.rules[0].action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]',
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ],
    ),
}


@pytest.mark.parametrize(("fields", "errors"), JOBS.values(), ids=list(JOBS))
def test_jobs(fields: dict[str, Any], errors: list[str]) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    found, _ = judged("jobs", {"metadata": {"uid": "u"}, "spec": {"template": template, **fields}}, "batch")
    assert found == errors


def test_causes_about_metadata_are_repeated_by_kind() -> None:
    label = invalid(Path("metadata.labels"), "x", "bad")
    finalizer = invalid(Path("metadata.finalizers[0]"), "x", "bad")
    other = invalid(Path("metadata.finalizers"), "x", "bad")
    assert repeated([label], ("", "configmaps"), status=False) == [label] * 4
    assert repeated([finalizer, other], ("", "configmaps"), status=False) == [finalizer] * 2 + [other] * 2
    assert repeated([label, finalizer], ("apps", "deployments"), status=True) == [label] * 3 + [finalizer]
