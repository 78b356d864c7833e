"""Phases, conditions, container statuses, and the patch that reports them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.kubelet.builders import START, container, make_pod, make_runtime
from tiphys.api.core.v1 import Pod, PodCondition, PodStatus, ResourceRequirements
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.pods.terminations import TERMINATED, count_terminations
from tiphys.kubelet.status.containers import ContainerFacts, Waiting
from tiphys.kubelet.status.pod_status import StatusInputs, Verdict, make_pod_status
from tiphys.kubelet.status.wire import status_patch, wire_status


def status_of(pod: Pod, runtime: RuntimePod, **more: Any) -> PodStatus:
    facts = ContainerFacts(runtime_name="tiphys", **more.pop("facts", {}))
    return make_pod_status(pod, runtime, StatusInputs(now=START, host_ips=("192.0.2.1",), containers=facts, **more))


@pytest.mark.parametrize(
    ("policy", "states", "stopped", "phase"),
    [
        ("Always", {}, False, "Pending"),
        ("Always", {"a": ("running", 0), "b": ("created", 0)}, False, "Pending"),
        ("Always", {"a": ("running", 0), "b": ("running", 0)}, False, "Running"),
        ("Always", {"a": ("exited", 0), "b": ("exited", 0)}, False, "Running"),
        ("OnFailure", {"a": ("exited", 0), "b": ("exited", 1)}, False, "Running"),
        ("OnFailure", {"a": ("exited", 0), "b": ("exited", 0)}, False, "Succeeded"),
        ("Never", {"a": ("exited", 0), "b": ("running", 0)}, False, "Running"),
        ("Never", {"a": ("exited", 0), "b": ("exited", 1)}, False, "Failed"),
        ("Always", {"a": ("exited", 0), "b": ("exited", 0)}, True, "Succeeded"),
        ("Always", {"a": ("exited", 0), "b": ("exited", 143)}, True, "Failed"),
        ("Always", {"a": ("exited", 0)}, True, "Failed"),
    ],
    ids=[
        "nothing yet",
        "one waits",
        "all run",
        "restarting",
        "one comes back",
        "all succeeded",
        "one still runs",
        "one failed",
        "stopped, all well",
        "stopped, one killed",
        "stopped before one began",
    ],
)
def test_the_phase(policy: str, states: dict[str, tuple[str, int]], stopped: bool, phase: str) -> None:
    pod = make_pod("a", "b", restartPolicy=policy)
    runtime = make_runtime(pod, *(container(pod, name, *state) for name, state in states.items()))
    assert status_of(pod, runtime, stopped=stopped).phase == phase


def conditions(status: PodStatus) -> dict[str, tuple[str, str, str]]:
    return {c.type: (c.status, c.reason, c.message) for c in status.conditions}


def test_the_conditions_of_a_pod_that_is_coming_up() -> None:
    pod = make_pod("app", init=("one",))
    found = conditions(status_of(pod, make_runtime(pod, container(pod, "one"))))
    assert found["PodReadyToStartContainers"] == ("True", "", "")
    assert found["Initialized"] == ("False", "ContainersNotInitialized", "containers with incomplete status: [one]")
    assert found["ContainersReady"] == ("False", "ContainersNotReady", "containers with unready status: [app]")
    assert found["Ready"] == found["ContainersReady"]


def test_readiness_gates_hold_a_pod_back() -> None:
    pod = make_pod("app", readinessGates=[{"conditionType": "example.com/ok"}])
    found = conditions(status_of(pod, make_runtime(pod, container(pod, "app"))))
    assert found["ContainersReady"][0] == "True"
    assert found["Ready"] == (
        "False",
        "ReadinessGatesNotReady",
        'corresponding condition of pod readiness gate "example.com/ok" does not exist.',
    )


def test_transition_times_move_only_with_the_status() -> None:
    pod = make_pod("app")
    runtime = make_runtime(pod, container(pod, "app"))
    first = status_of(pod, runtime)
    later = StatusInputs(
        now=START + timedelta(minutes=1),
        host_ips=(),
        containers=ContainerFacts(runtime_name="t", ready=lambda c: False),
    )
    second = make_pod_status(replace(pod, status=first), runtime, later)
    times = {c.type: c.last_transition_time for c in second.conditions}
    assert times["Initialized"] == START
    assert times["Ready"] == START + timedelta(minutes=1)


def test_a_restarted_container_shows_how_it_ended() -> None:
    pod = make_pod("app")
    ended = container(pod, "app", "exited", 137, message="bye")
    runtime = make_runtime(pod, ended, container(pod, "app", restart_count=1, age=5))
    status = status_of(pod, runtime).container_statuses[0]
    assert status.restart_count == 1
    assert status.container_id == "tiphys://c-app-1"
    assert status.last_state is not None and status.last_state.terminated is not None
    assert (status.last_state.terminated.reason, status.last_state.terminated.message) == ("Error", "bye")


def test_a_container_that_waits_says_why() -> None:
    pod = make_pod("app")
    runtime = make_runtime(pod, container(pod, "app", "exited", 1))
    facts = {"waiting": {"app": Waiting("CrashLoopBackOff", "back-off 10s")}}
    status = status_of(pod, runtime, facts=facts)
    shown = status.container_statuses[0]
    assert shown.state is not None and shown.state.waiting is not None
    assert shown.state.waiting.reason == "CrashLoopBackOff"
    assert shown.last_state is not None and shown.last_state.terminated is not None
    assert status.phase == "Running"


def test_an_evicted_pod_fails_with_the_reason() -> None:
    pod = make_pod("app")
    verdict = Verdict(reason="Evicted", message="The node was low on resource: memory.")
    status = status_of(pod, make_runtime(pod, container(pod, "app", "exited", 137)), verdict=verdict, stopped=True)
    assert (status.phase, status.reason) == ("Failed", "Evicted")


def test_addresses_stay_after_the_sandbox_is_gone() -> None:
    pod = make_pod("app", status={"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]})
    assert status_of(pod, RuntimePod(uid=PodUID("u1"))).pod_ip == "10.0.0.9"


def ready_app(pod: Pod) -> RuntimeContainer:
    return container(pod, "app")


def test_zero_values_that_clients_read_are_written() -> None:
    pod = make_pod("app")
    document = wire_status(status_of(pod, RuntimePod(uid=PodUID("u1"))))
    shown = document["containerStatuses"][0]
    assert (shown["ready"], shown["restartCount"], shown["imageID"], shown["lastState"]) == (False, 0, "", {})


def test_a_patch_has_what_differs_and_nothing_else() -> None:
    old = {
        "phase": "Pending",
        "message": "gone",
        "podIPs": [{"ip": "1"}],
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "X"},
            {"type": "Initialized", "status": "True"},
            {"type": "Other", "status": "True"},
        ],
    }
    new = {
        "phase": "Running",
        "podIPs": [{"ip": "2"}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
    }
    assert status_patch(old, new) == {
        "phase": "Running",
        "message": None,
        "podIPs": [{"$patch": "replace"}, {"ip": "2"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": None}],
    }
    assert status_patch(new, new) == {}


def test_conditions_of_a_resize_go_when_it_is_over() -> None:
    pod = make_pod("app")
    condition = PodCondition(type="PodResizeInProgress", status="True")
    during = status_of(pod, make_runtime(pod, container(pod, "app")), resize=(condition,))
    after = status_of(replace(pod, status=during), make_runtime(pod, container(pod, "app")))
    assert "PodResizeInProgress" in {one.type for one in during.conditions}
    assert status_patch(wire_status(during), wire_status(after)) == {
        "conditions": [{"$patch": "delete", "type": "PodResizeInProgress"}]
    }


def test_a_running_container_shows_what_it_runs_with() -> None:
    pod = make_pod({"name": "app", "resources": {"requests": {"cpu": "2"}}})
    before = ResourceRequirements(requests={"cpu": "1"})
    facts = {"resources": {"app": before}.get}
    running = status_of(pod, make_runtime(pod, container(pod, "app")), facts=facts).container_statuses[0]
    assert (running.resources, running.allocated_resources) == (before, {"cpu": "2"})
    ended = status_of(pod, make_runtime(pod, container(pod, "app", "exited")), facts=facts).container_statuses[0]
    assert ended.resources == pod.spec.containers[0].resources


def test_being_scheduled_is_of_the_newest_generation_and_the_oldest_time() -> None:
    known = {
        "type": "PodScheduled",
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    }
    pod = make_pod("app", metadata={"generation": 2}, status={"conditions": [known]})
    status = status_of(pod, make_runtime(pod, container(pod, "app")))
    scheduled = next(one for one in status.conditions if one.type == "PodScheduled")
    assert scheduled.last_transition_time == pod.status.conditions[0].last_transition_time
    assert {one.observed_generation for one in status.conditions} == {2}


def test_endings_are_counted_by_kind_code_and_reason() -> None:
    pod = make_pod("app", init=("first",))
    ended = [container(pod, "app", "exited", 139), container(pod, "first", "exited")]
    series = [TERMINATED.labels("container", "139", "Error"), TERMINATED.labels("init_container", "0", "Completed")]
    before = [one.value for one in series]
    count_terminations(pod, ended)
    assert [one.value for one in series] == [value + 1 for value in before]


def test_a_pod_says_what_it_was_granted_in_all() -> None:
    pod = make_pod(*({"name": name, "resources": {"requests": {"cpu": "500m"}}} for name in "ab"))
    assert status_of(pod, make_runtime(pod)).allocated_resources == {"cpu": "1"}
