"""Pods: defaults, validation, what may change, quality of service, rows."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from tiphys.apiserver.registry.core.pod_qos import qos_class
from tiphys.apiserver.registry.core.pod_table import pod_row
from tiphys.apiserver.registry.core.pod_update import validate_pod_status_update, validate_pod_update, validate_resize
from tiphys.apiserver.registry.defaults.image import pull_policy_for
from tiphys.apiserver.registry.defaults.pod import default_pod
from tiphys.apiserver.registry.validation.pod import validate_pod_spec
from tiphys.machinery.field import Path

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def pod(**spec: Any) -> dict[str, Any]:
    """A defaulted pod of one container."""
    made = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "img"}], **spec}}
    default_pod(made)
    return made


def errors(**spec: Any) -> list[str]:
    return [str(error) for error in validate_pod_spec(pod(**spec)["spec"], Path("spec"))]


RESTART_RULE = {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}


def file_variable(volume: str, path: str) -> dict[str, Any]:
    """A container with a variable from a file."""
    source = {"volumeName": volume, "path": path, "key": "k"}
    return {"name": "c", "image": "i", "env": [{"name": "A", "valueFrom": {"fileKeyRef": source}}]}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("reg:5000/x/y", "Always"),
        ("x@sha256:aa", "IfNotPresent"),
    ],
)
def test_pull_policy(image: str, policy: str) -> None:
    assert pull_policy_for(image) == policy


def test_defaults_of_a_minimal_pod() -> None:
    spec = pod()["spec"]
    assert spec["restartPolicy"] == "Always"
    assert spec["dnsPolicy"] == "ClusterFirst"
    assert spec["terminationGracePeriodSeconds"] == 30
    assert spec["enableServiceLinks"] is True
    assert spec["containers"][0]["terminationMessagePath"] == "/dev/termination-log"
    assert errors() == []


def test_a_sidecar_may_have_restart_rules() -> None:
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}
    sidecar = {"name": "s", "image": "i", "restartPolicy": "Always", "restartPolicyRules": [rule]}
    assert errors(initContainers=[sidecar]) == []


@pytest.mark.parametrize(("action", "refused"), [("Restart", True), ("RestartAllContainers", False)])
def test_whether_another_containers_end_may_be_taken_back(action: str, refused: bool) -> None:
    rule = {"action": action, "exitCodes": {"operator": "In", "values": [88]}}
    source = {"name": "s", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [rule]}
    old, new = (pod(restartPolicy="Never", containers=[{"name": "c", "image": "i"}, source]) for _ in range(2))
    old["status"] = {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 137}}}]}
    new["status"] = {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}
    assert bool(validate_pod_status_update(new, old)) is refused


def test_limits_become_requests() -> None:
    container = {
        "name": "c",
        "image": "i",
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
    }
    made = pod(containers=[container])
    assert made["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}


def test_quantities_finer_than_milli_are_rounded_up() -> None:
    made = pod(containers=[{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100u"}}}])
    assert made["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1m"}


def test_host_network_fills_host_ports() -> None:
    made = pod(hostNetwork=True, containers=[{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}])
    assert made["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"containers": []}, "spec.containers: Required value"),
        (
            {"restartPolicy": "Sometimes"},
            'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"',
        ),
        (
            {"activeDeadlineSeconds": 0},
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            {"volumes": [{"name": "x", "hostPath": {"path": "/a"}, "emptyDir": {}}]},
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/a"}]}]},
            'spec.containers[0].volumeMounts[0].name: Not found: "x"',
        ),
        (
            {"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "valueFrom": {}}]}]},
            (
                'spec.containers[0].env[0].valueFrom: Invalid value: "": must specify one of: '
                "`fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            ),
        ),
        (
            {"containers": [file_variable("e", "../a")], "volumes": [{"name": "e", "emptyDir": {}}]},
            "spec.containers[0].env[0].valueFrom.fileKeyRef.path: Invalid value: \"../a\": must not contain '..'",
        ),
        (
            {"containers": [file_variable("cfg", "a")], "volumes": [{"name": "cfg", "configMap": {"name": "x"}}]},
            (
                'spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Invalid value: "cfg": '
                "referenced volume must be of type emptyDir"
            ),
        ),
        (
            {"containers": [file_variable("no", "a")]},
            'spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Not found: "no"',
        ),
        (
            {"containers": [{"name": "c", "image": "i", "restartPolicyRules": [RESTART_RULE]}]},
            (
                "spec.containers[0].restartPolicy: Required value: "
                "must specify restartPolicy when restart rules are used"
            ),
        ),
        (
            {"containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "x"}]}}]},
            (
                'spec.containers[0].resources.claims[0]: Not found: "x": must be one of the names '
                "in pod.spec.resourceClaims which is empty"
            ),
        ),
        (
            {"tolerations": [{"value": "x"}]},
            (
                'spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, '
                'which means "match all values and all keys"'
            ),
        ),
    ],
)
def test_a_wrong_spec(spec: dict[str, Any], message: str) -> None:
    assert errors(**spec) == [message]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"requests": {"example.com/gpu": "1"}}, "BestEffort"),
    ],
)
def test_quality_of_service(resources: dict[str, Any], expected: str) -> None:
    assert qos_class({"containers": [{"resources": resources}]}) == expected


def test_only_the_image_of_a_container_may_change() -> None:
    old, new = pod(), pod()
    new["spec"]["containers"][0]["image"] = "other"
    assert validate_pod_update(new, old) == []
    new["spec"]["containers"][0]["command"] = ["sh"]
    (error,) = validate_pod_update(new, old)
    assert '-   "Command": null,\n' in error.detail
    assert '+   "Command": [\n+    "sh"\n+   ],\n' in error.detail


def test_tolerations_are_only_added() -> None:
    old, new = pod(tolerations=[{"key": "a", "operator": "Exists"}]), pod(tolerations=[])
    assert [str(error) for error in validate_pod_update(new, old)] == [
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
    ]


def test_a_resize_keeps_the_quality_of_service() -> None:
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}
    old = pod(containers=[{"name": "c", "image": "i", "resources": resources}])
    new = deepcopy(old)
    new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1500m"
    assert validate_resize(new, old) == []
    new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2"
    assert [error.detail for error in validate_resize(new, old)] == [
        "Pod QOS Class may not change as a result of resizing"
    ]


def test_a_resize_may_give_the_pod_resources_of_its_own() -> None:
    old = pod(containers=[{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}])
    new = deepcopy(old)
    new["spec"]["resources"] = {"requests": {"cpu": "2"}, "limits": {"cpu": "3"}}
    assert validate_resize(new, old) == []


def status(*containers: dict[str, Any], phase: str = "Running") -> dict[str, Any]:
    return {"phase": phase, "containerStatuses": list(containers)}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"ready": True, "state": {"running": {}}}, "Running"),
        ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}}, "CrashLoopBackOff"),
        ({"state": {"terminated": {"reason": "Error", "exitCode": 1}}}, "Error"),
        ({"state": {"terminated": {"exitCode": 3}}}, "ExitCode:3"),
        ({"state": {"terminated": {"signal": 9}}}, "Signal:9"),
    ],
)
def test_the_status_column(state: dict[str, Any], text: str) -> None:
    shown = {**pod(), "status": status({"name": "c", **state})}
    assert pod_row(shown, NOW)[2] == text


def test_restarts_say_how_long_ago() -> None:
    last = {"terminated": {"finishedAt": "2023-12-31T23:55:00Z"}}
    shown = {**pod(), "status": status({"name": "c", "restartCount": 2, "lastState": last, "state": {"running": {}}})}
    assert pod_row(shown, NOW)[3] == "2 (5m ago)"


def test_an_init_container_that_runs_shows_progress() -> None:
    made = pod(initContainers=[{"name": "a", "image": "i"}, {"name": "b", "image": "i"}])
    made["status"] = {"phase": "Pending", "initContainerStatuses": [{"name": "a", "state": {"running": {}}}]}
    assert pod_row(made, NOW)[2] == "Init:0/2"
