"""What `up` says it waits for."""

from __future__ import annotations

from tiphys.api.core.v1 import (
    ContainerState,
    ContainerStateWaiting,
    ContainerStatus,
    Node,
    NodeCondition,
    NodeStatus,
    Pod,
    PodCondition,
    PodStatus,
)
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.cmd.setup import why_node_waits, why_pod_waits


def pod(status: PodStatus) -> Pod:
    return Pod(metadata=ObjectMeta(name="coredns"), status=status)


def test_a_pod_that_no_node_takes_waits_for_what_the_scheduler_says() -> None:
    message = "0/1 nodes are available: 1 node(s) had untolerated taint(s)."
    condition = PodCondition(type="PodScheduled", status="False", reason="Unschedulable", message=message)
    assert why_pod_waits(pod(PodStatus(conditions=(condition,)))) == message


def test_a_container_that_does_not_start_says_why() -> None:
    waiting = ContainerState(waiting=ContainerStateWaiting(reason="ErrImageNeverPull", message="no such image"))
    status = ContainerStatus(name="dns", state=waiting)
    scheduled = PodCondition(type="PodScheduled", status="True")
    assert why_pod_waits(pod(PodStatus(conditions=(scheduled,), container_statuses=(status,)))) == (
        "ErrImageNeverPull: no such image"
    )


def test_a_pod_on_its_way_has_nothing_to_say() -> None:
    creating = ContainerState(waiting=ContainerStateWaiting(reason="ContainerCreating"))
    assert why_pod_waits(pod(PodStatus(container_statuses=(ContainerStatus(name="dns", state=creating),)))) == ""
    assert why_pod_waits(pod(PodStatus())) == ""


def test_a_node_says_what_its_kubelet_misses() -> None:
    def node(status: str, message: str) -> Node:
        condition = NodeCondition(type="Ready", status=status, message=message)
        pressure = NodeCondition(type="DiskPressure", status="True", message="kubelet has disk pressure")
        return Node(metadata=ObjectMeta(name="n1"), status=NodeStatus(conditions=(pressure, condition)))

    assert why_node_waits(node("False", "container runtime is down")) == "container runtime is down"
    assert why_node_waits(node("True", "kubelet is posting ready status")) == ""
