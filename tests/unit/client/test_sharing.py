"""What pods have in common is kept once, and no pod becomes another by that."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tiphys.api.core.v1 import Pod
from tiphys.client.cache import key_of
from tiphys.client.sharing import Siblings

RAW: dict[str, Any] = {
    "metadata": {
        "name": "a",
        "namespace": "default",
        "uid": "1",
        "labels": {"app": "web"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o"}],
    },
    "spec": {"containers": [{"name": "c", "image": "app", "ports": [{"containerPort": 80}]}]},
    "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
}


def pod(**changes: Any) -> Pod:
    """A pod decoded for itself, with fields changed by their path."""
    raw = msgspec.json.decode(msgspec.json.encode(RAW))
    for path, value in changes.items():
        part, _, field = path.partition("_")
        raw[part][field] = value
    return msgspec.json.decode(msgspec.json.encode(raw), type=Pod)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"metadata_name": "b", "metadata_uid": "2", "status_podIP": "10.0.0.2"}, id="a sibling"),
        pytest.param({"metadata_labels": {"app": "web", "more": "x"}}, id="another label"),
        pytest.param({"spec_nodeName": "n1"}, id="bound"),
        pytest.param({"spec_hostNetwork": True, "spec_priority": 1}, id="numbers and truth values"),
        pytest.param({"metadata_ownerReferences": []}, id="released"),
        pytest.param({"status_conditions": [{"type": "Ready", "status": "False"}]}, id="not ready"),
    ],
)
def test_a_pod_stays_what_it_is(changes: dict[str, Any]) -> None:
    siblings, first, second = Siblings(), pod(), pod(**changes)
    objects = {key_of(first): first}
    siblings.share(key_of(first), first, None, {})
    siblings.share(key_of(second), second, objects.get(key_of(second)), objects)
    assert second == pod(**changes)
    assert first == pod()


def test_siblings_have_one_template() -> None:
    siblings, first, second = Siblings(), pod(), pod(metadata_name="b", spec_nodeName="n2")
    siblings.share(key_of(first), first, None, {})
    siblings.share(key_of(second), second, None, {key_of(first): first})
    assert second.spec is not first.spec and second.spec.containers is first.spec.containers
    assert second.metadata.owner_references is first.metadata.owner_references
    assert second.status is first.status
