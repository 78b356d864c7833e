"""Hashes of pod templates, as kube-controller-manager v1.36 computes them."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tiphys.controllers.common.godump import dump_template
from tiphys.controllers.common.hashing import revision_hash, template_hash

# (what it shows, template, hash, hash after two collisions)
RECORDED: Final[list[tuple[str, dict[str, Any], str, str]]] = [
    (
        "labels",
        {"metadata": {"labels": {"b": "1", "a": "2"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        "69654bf757",
        "856f7664d7",
    ),
    (
        "defaults",
        {
            "metadata": {"labels": {"app": "x"}},
            "spec": {
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst",
                "securityContext": {},
                "schedulerName": "default-scheduler",
                "containers": [
                    {
                        "name": "c",
                        "image": "i",
                        "resources": {},
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                        "imagePullPolicy": "Always",
                    }
                ],
            },
        },
        "5ddf699f9d",
        "958bd746d",
    ),
    (
        "quantities",
        {
            "spec": {
                "containers": [
                    {
                        "name": "c",
                        "resources": {
                            "limits": {
                                "cpu": "1500m",
                                "memory": "1Gi",
                                "a": "8Gi",
                                "b": "100Ti",
                                "c": "3e3",
                                "d": "0",
                                "e": "9223372036854775807",
                            }
                        },
                    }
                ]
            }
        },
        "54764cdc5c",
        "64cfc69595",
    ),
    (
        "probes",
        {
            "spec": {
                "containers": [
                    {
                        "name": "c",
                        "livenessProbe": {"httpGet": {"path": "/", "port": 80}},
                        "readinessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 5},
                    }
                ]
            }
        },
        "788d484fb7",
        "59c874f597",
    ),
    (
        "volumes",
        {
            "metadata": {"annotations": {"k": 'a<b>&"é\n'}},
            "spec": {
                "volumes": [
                    {"name": "v", "secret": {"secretName": "x", "defaultMode": 420}},
                    {"name": "e", "emptyDir": {"sizeLimit": "100Mi"}},
                    {"name": "m", "configMap": {"name": "y", "optional": False}},
                ],
                "containers": [
                    {
                        "name": "c",
                        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                        "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                    }
                ],
            },
        },
        "c84cc5c9",
        "7b5dc8fd89",
    ),
    (
        "affinity",
        {
            "spec": {
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "k", "operator": "In", "values": ["a", "b"]}]}
                            ]
                        }
                    }
                },
                "tolerations": [{"key": "a", "tolerationSeconds": 300}],
                "containers": [{"name": "c", "securityContext": {"privileged": True, "runAsUser": 0}}],
            }
        },
        "869fc5856f",
        "857d545bd7",
    ),
    (
        "empty",
        {"metadata": {"annotations": {}}, "spec": {"containers": [{"name": "c", "command": []}]}},
        "7565ff8789",
        "756c8fffcf",
    ),
    (
        "time",
        {"metadata": {"creationTimestamp": "2024-01-02T03:04:05Z"}, "spec": {"containers": []}},
        "6ccbd4dc54",
        "7fbcffd784",
    ),
]


@pytest.mark.parametrize(
    ("template", "hashed", "again"), [row[1:] for row in RECORDED], ids=[row[0] for row in RECORDED]
)
def test_a_template_has_upstreams_hash(template: dict[str, Any], hashed: str, again: str) -> None:
    assert (template_hash(template), template_hash(template, 2)) == (hashed, again)


def test_what_is_absent_is_shown() -> None:
    text = dump_template({"spec": {"restartPolicy": "Never", "priority": 0}})
    assert text.startswith("(v1.PodTemplateSpec){ObjectMeta:(v1.ObjectMeta){Name:(string) GenerateName:(string) ")
    assert "Containers:([]v1.Container)<nil>" in text
    assert "RestartPolicy:(v1.RestartPolicy)Never TerminationGracePeriodSeconds:(*int64)<nil>" in text
    assert "Priority:(*int32)0" in text


def test_a_revision_is_hashed_as_escaped_json() -> None:
    assert revision_hash({"a": "<"}, 0) != revision_hash({"a": "\\u003c"}, 0)
