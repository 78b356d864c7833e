"""What is done for a pod, by its state: the table of the drawing in `pods/actions.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.kubelet.builders import container, make_pod, make_runtime
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod, RuntimeSandbox, State
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.pods.actions import PodActions, ProbeView, compute_pod_actions
from tiphys.kubelet.pods.cleanup import empty_sandboxes

SIDECAR: dict[str, Any] = {"name": "proxy", "restartPolicy": "Always"}


def names(actions: PodActions) -> dict[str, Any]:
    """The actions in short: only what is not empty."""
    found = {
        "kill_pod": actions.kill_pod,
        "sandbox": actions.attempt if actions.create_sandbox else None,
        "init": [c.name for c in actions.start_init],
        "start": [c.name for c in actions.start],
        "debug": [c.name for c in actions.start_ephemeral],
        "kill": {kill.container.name: kill.reason for kill in actions.kill},
    }
    return {
        key: value for key, value in found.items() if value is not None and value is not False and value not in ([], {})
    }


def empty() -> RuntimePod:
    return RuntimePod(uid=PodUID("u1"))


def test_a_new_pod_gets_a_sandbox_and_its_containers() -> None:
    pod = make_pod("a", "b")
    assert names(compute_pod_actions(pod, empty(), ProbeView())) == {
        "kill_pod": True,
        "sandbox": 0,
        "start": ["a", "b"],
    }


def test_a_new_pod_with_init_containers_begins_with_the_first() -> None:
    pod = make_pod("a", init=("one", "two"))
    assert names(compute_pod_actions(pod, empty(), ProbeView())) == {"kill_pod": True, "sandbox": 0, "init": ["one"]}


@pytest.mark.parametrize(
    ("state", "code", "policy", "expected"),
    [
        ("running", 0, "Always", {}),
        ("exited", 0, "Always", {"start": ["app"]}),
        ("exited", 1, "OnFailure", {"start": ["app"]}),
        ("exited", 0, "OnFailure", {"kill_pod": True}),
        ("exited", 1, "Never", {"kill_pod": True}),
        ("created", 0, "Never", {"start": ["app"]}),
        ("unknown", 0, "Always", {"start": ["app"], "kill": {"app": "Unknown"}}),
    ],
    ids=["running", "ended", "failed", "succeeded", "failed for good", "made but not started", "lost from sight"],
)
def test_a_container_by_its_state_and_policy(state: str, code: int, policy: str, expected: dict[str, Any]) -> None:
    pod = make_pod("app", restartPolicy=policy)
    runtime = make_runtime(pod, container(pod, "app", state, code))
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == expected


@pytest.mark.parametrize(
    ("rules", "code", "restarts"),
    [
        ([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}], 42, True),
        ([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}], 1, False),
        ([{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [42]}}], 1, True),
    ],
    ids=["listed", "not listed", "anything but"],
)
def test_rules_of_a_container_stand_over_the_policy_of_the_pod(rules: list[Any], code: int, restarts: bool) -> None:
    pod = make_pod(
        {"name": "app", "restartPolicy": "Never", "restartPolicyRules": rules}, "other", restartPolicy="Never"
    )
    runtime = make_runtime(pod, container(pod, "app", "exited", code), container(pod, "other"))
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == ({"start": ["app"]} if restarts else {})


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"one": ("running", 0)}, {}),
        ({"one": ("exited", 0)}, {"init": ["two"]}),
        ({"one": ("exited", 1)}, {"init": ["one"]}),
        ({"one": ("exited", 0), "two": ("exited", 0)}, {"start": ["app"]}),
        ({"app": ("running", 0)}, {}),
    ],
    ids=["first runs", "first done", "first failed", "all done", "collected after the pod was up"],
)
def test_init_containers_go_one_by_one(states: dict[str, tuple[str, int]], expected: dict[str, Any]) -> None:
    pod = make_pod("app", init=("one", "two"))
    runtime = make_runtime(pod, *(container(pod, name, *state) for name, state in states.items()))
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == expected


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    pod = make_pod("app", init=("one",), restartPolicy="Never")
    runtime = make_runtime(pod, container(pod, "one", "exited", 1))
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == {"kill_pod": True}


@pytest.mark.parametrize(("started", "expected"), [(False, {}), (True, {"init": ["one"]})], ids=["starting", "started"])
def test_a_sidecar_lets_the_next_in_once_it_has_started(started: bool, expected: dict[str, Any]) -> None:
    pod = make_pod("app", init=(SIDECAR, "one"))
    runtime = make_runtime(pod, container(pod, "proxy"))
    assert names(compute_pod_actions(pod, runtime, ProbeView(started=lambda c: started))) == expected


def test_a_sidecar_that_ended_comes_back_beside_the_running_pod() -> None:
    pod = make_pod("app", init=(SIDECAR,), restartPolicy="Never")
    runtime = make_runtime(pod, container(pod, "proxy", "exited", 0), container(pod, "app"))
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == {"init": ["proxy"]}


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (ProbeView(liveness_failed=frozenset({"c-app-0"})), "FailedLivenessProbe"),
        (ProbeView(startup_failed=frozenset({"c-app-0"})), "FailedStartupProbe"),
    ],
    ids=["liveness", "startup"],
)
def test_a_failed_probe_replaces_the_container(view: ProbeView, reason: str) -> None:
    pod = make_pod("app")
    runtime = make_runtime(pod, container(pod, "app"))
    assert names(compute_pod_actions(pod, runtime, view)) == {"start": ["app"], "kill": {"app": reason}}


def test_another_image_replaces_the_container() -> None:
    pod = make_pod("app")
    runtime = make_runtime(pod, container(pod, "app", hash="other"))
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == {"start": ["app"], "kill": {"app": "Changed"}}


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("Always", 0, {"kill_pod": True, "sandbox": 1, "start": ["app"]}),
        ("OnFailure", 0, {"kill_pod": True}),
        ("OnFailure", 1, {"kill_pod": True, "sandbox": 1, "start": ["app"]}),
        ("Never", 1, {"kill_pod": True}),
    ],
    ids=["always", "succeeded", "failed", "never"],
)
def test_a_dead_sandbox_is_replaced_unless_the_pod_is_over(policy: str, code: int, expected: dict[str, Any]) -> None:
    pod = make_pod("app", restartPolicy=policy)
    runtime = make_runtime(pod, container(pod, "app", "exited", code), ready=False)
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, {"kill_pod": True, "sandbox": 1, "init": ["one"]}),
        ({"one": "exited", "a": "created"}, {"kill_pod": True, "sandbox": 1, "init": ["one"]}),
        ({"one": "exited", "a": "exited", "b": "created"}, {"kill_pod": True, "sandbox": 1, "init": ["one"]}),
        ({"one": "running"}, {"kill_pod": True}),
        ({"one": "exited", "a": "running", "b": "created"}, {"kill_pod": True}),
        ({"one": "exited", "a": "exited", "b": "running"}, {"kill_pod": True}),
    ],
    ids=["nothing ran", "one made", "one of two ran", "init runs", "one of two runs", "both ran"],
)
def test_what_never_ran_runs_in_another_sandbox_whatever_the_policy(
    states: dict[str, str], expected: dict[str, Any]
) -> None:
    pod = make_pod("a", "b", init=("one",), restartPolicy="Never")
    runtime = make_runtime(pod, *(container(pod, name, state) for name, state in states.items()), ready=False)
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == expected


def test_a_sandbox_without_an_address_is_replaced() -> None:
    pod = make_pod("app")
    assert names(compute_pod_actions(pod, make_runtime(pod, ips=()), ProbeView()))["sandbox"] == 1


def test_init_containers_of_an_earlier_sandbox_do_not_count() -> None:
    pod = make_pod("app", init=("one",))
    runtime = make_runtime(pod, container(pod, "one", "exited", 0, age=-10), attempt=1)
    assert names(compute_pod_actions(pod, runtime, ProbeView())) == {"init": ["one"]}


def test_an_ephemeral_container_runs_once() -> None:
    pod = make_pod("app", ephemeralContainers=[{"name": "debug", "image": "busybox"}])
    running = container(pod, "app")
    assert names(compute_pod_actions(pod, make_runtime(pod, running), ProbeView())) == {"debug": ["debug"]}
    ended = container(pod, "debug", "exited", 1)
    assert names(compute_pod_actions(pod, make_runtime(pod, running, ended), ProbeView())) == {}


def test_a_container_that_is_resized_by_restart_is_restarted_whatever_the_policy() -> None:
    pod = make_pod("a", "b", restartPolicy="OnFailure")
    runtime = make_runtime(pod, container(pod, "a"), container(pod, "b"))
    view = ProbeView(resized=frozenset({"c-a-0"}))
    assert names(compute_pod_actions(pod, runtime, view)) == {"kill": {"a": "Resize"}, "start": ["a"]}


def test_a_sandbox_stays_as_long_as_it_holds_a_container() -> None:
    def at(second: int) -> datetime:
        return datetime(2024, 1, 1, 0, 0, second, tzinfo=UTC)

    def sandbox(second: int) -> RuntimeSandbox:
        return RuntimeSandbox(id=str(second), attempt=second, ready=False, created_at=at(second))

    kept = RuntimeContainer(id="c", name="app", state=State.EXITED, created_at=at(2))
    runtime = RuntimePod(uid=PodUID("u"), sandboxes=(sandbox(9), sandbox(5), sandbox(1)), containers=(kept,))
    assert [found.id for found in empty_sandboxes(runtime)] == ["5"]
