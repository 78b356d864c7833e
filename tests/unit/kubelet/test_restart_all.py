"""A rule that starts all of a pod's containers anew: what triggers it, its steps, and how it shows."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec.structs import replace

from tests.unit.kubelet.builders import START, container, make_pod, make_runtime
from tiphys.api.core.v1 import Pod, PodStatus
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.pods.restart import restart_trigger, restarts_after_exit
from tiphys.kubelet.pods.restart_all import is_restarting, restart_all, restarted
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.status.containers import ContainerFacts
from tiphys.kubelet.status.pod_status import StatusInputs, make_pod_status


def rule(action: str, *codes: int, operator: str = "In") -> dict[str, Any]:
    return {"action": action, "exitCodes": {"operator": operator, "values": list(codes)}}


def pod_with(*rules: dict[str, Any]) -> Pod:
    source = {"name": "source", "restartPolicy": "Never", "restartPolicyRules": list(rules)}
    return make_pod(source, "other", restartPolicy="Never")


@pytest.mark.parametrize(
    ("rules", "state", "found"),
    [
        ([rule("RestartAllContainers", 88)], ("exited", 88), True),
        ([rule("RestartAllContainers", 88)], ("exited", 1), False),
        ([rule("RestartAllContainers", 88)], ("running", 0), False),
        ([rule("RestartAllContainers", 0, operator="NotIn")], ("exited", 1), True),
        ([rule("Restart", 88), rule("RestartAllContainers", 88)], ("exited", 88), False),
    ],
    ids=["matches", "another code", "runs", "not in", "the first rule decides"],
)
def test_what_triggers_it(rules: list[dict[str, Any]], state: tuple[str, int], found: bool) -> None:
    pod = pod_with(*rules)
    trigger = restart_trigger(pod, make_runtime(pod, container(pod, "source", *state), container(pod, "other")))
    assert (trigger is not None) is found


def test_the_source_is_not_over() -> None:
    pod = pod_with(rule("RestartAllContainers", 88))
    assert restarts_after_exit(pod, pod.spec.containers[0], 88)
    assert not restarts_after_exit(pod, pod.spec.containers[1], 88)


class _Node:
    """What a restart does to containers, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.runtime = self.status = self

    async def stop_container(self, container_id: str, grace: float) -> None:
        assert grace == 0
        self.calls.append(("stop", container_id))

    async def remove_container(self, container_id: str) -> None:
        self.calls.append(("remove", container_id))

    async def flushed(self, uid: str) -> None:
        self.calls.append(("told", uid))

    def event(self, *details: object) -> None:
        pass


async def test_its_steps() -> None:
    node, pod = _Node(), pod_with(rule("RestartAllContainers", 88))
    source, other = container(pod, "source", "exited", 88), container(pod, "other")
    await restart_all(cast(PodServices, node), pod, make_runtime(pod, source, other), source)
    assert node.calls == [("stop", "c-other-0")]
    node.calls.clear()
    ended = make_runtime(pod, source, container(pod, "other", "exited", 137))
    await restart_all(cast(PodServices, node), pod, ended, source)
    assert node.calls == [("told", "u1"), ("remove", "c-other-0"), ("remove", "c-source-0")]


def shown(pod: Pod, runtime: RuntimePod, *, restarting: bool) -> PodStatus:
    facts = ContainerFacts(runtime_name="tiphys", restarting=restarting)
    inputs = StatusInputs(now=START, host_ips=("192.0.2.1",), containers=facts, restarting=restarting)
    return make_pod_status(pod, runtime, inputs)


def test_how_it_shows() -> None:
    pod = pod_with(rule("RestartAllContainers", 88))
    pod = replace(
        pod, status=shown(pod, make_runtime(pod, *(container(pod, n) for n in ("source", "other"))), restarting=False)
    )
    ended = (container(pod, "source", "exited", 88), container(pod, "other", "exited", 137))
    pod = replace(pod, status=shown(pod, make_runtime(pod, *ended), restarting=True))
    assert (pod.status.phase, is_restarting(pod)) == ("Running", True)
    empty = make_runtime(pod)
    assert not restarted(pod, empty)
    pod = replace(pod, status=shown(pod, empty, restarting=True))
    for status in pod.status.container_statuses:
        assert status.state is not None and status.state.waiting is not None
        assert status.last_state is not None and status.last_state.terminated is not None
        assert status.restart_count == 1
    assert pod.status.phase == "Running"
    again = make_runtime(pod, *(container(pod, name, restart_count=1) for name in ("source", "other")))
    assert restarted(pod, again)
    pod = replace(pod, status=shown(pod, again, restarting=False))
    assert (pod.status.phase, is_restarting(pod)) == ("Running", False)
