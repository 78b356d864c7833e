"""Beside which pods a new one has to find room."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.kubelet.builders import START, make_pod
from tests.unit.kubelet.manager_alone import ManagerAlone
from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import PodUID
from tiphys.machinery.time import format_time


def pod(name: str, cpu: str = "1", metadata: dict[str, Any] | None = None, **container: Any) -> Pod:
    requests = {"name": "app", "resources": {"requests": {"cpu": cpu}}, **container}
    return make_pod(requests, metadata={"name": name, "uid": name, **(metadata or {})})


def refused(node: ManagerAlone) -> dict[str, bool]:
    return {uid: worker.refused for uid, worker in node.manager.workers.items()}


@pytest.mark.parametrize("order", [("large", "small"), ("small", "large")])
def test_a_refused_pod_takes_no_room(order: tuple[str, str]) -> None:
    node = ManagerAlone(cpu="4")
    node.manager.add(pod("first", "3"))
    for name in order:
        node.manager.add(pod(name, "2" if name == "large" else "1"))
    assert refused(node) == {"first": False, "large": True, "small": False}
    assert {each.metadata.name for each in node.manager.active()} == {"first", "small"}


def test_many_refused_pods_are_not_counted() -> None:
    node = ManagerAlone(pods="2", cpu="100")
    node.manager.add(pod("a"))
    node.manager.add(pod("b"))
    messages: list[str] = []
    node.refused = lambda _, verdict: messages.append(verdict.message)
    for number in range(5):
        node.manager.add(pod(f"more-{number}"))
    lacking = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"
    assert messages == [lacking] * 5


def test_a_pod_deleted_by_force_has_no_claim_while_it_ends() -> None:
    node = ManagerAlone(cpu="4")
    port = {"ports": [{"containerPort": 80, "hostPort": 80}]}
    node.manager.add(pod("old", "3", **port))
    node.manager.remove(PodUID("old"))
    node.manager.add(pod("new", "3", **port))
    assert refused(node) == {"old": False, "new": False}
    assert len(node.manager.active()) == 2  # both use the node, for as long as it takes


def test_a_pod_that_ends_in_its_grace_period_keeps_its_room() -> None:
    node = ManagerAlone(cpu="4")
    deleted = {"deletionTimestamp": format_time(START), "deletionGracePeriodSeconds": 30}
    node.manager.add(pod("old", "3", metadata=deleted))  # it was there before the kubelet
    node.manager.add(pod("new", "3"))
    assert refused(node) == {"old": False, "new": True}
