"""What a simulated pod does next: each row of the picture in life.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tiphys.machinery.meta import ObjectName
from tiphys.simulation.life import Next, Step, backoff, next_step
from tiphys.simulation.pods import Addresses
from tiphys.simulation.status import patch_for
from tiphys.simulation.views import PodView

T0 = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PREFIX = "simulation.tiphys.dev/"


def pod(annotations: dict[str, str] | None = None, status: dict[str, Any] | None = None, **more: Any) -> PodView:
    metadata = {
        "name": "p",
        "namespace": "default",
        "uid": "u",
        "resourceVersion": "7",
        "annotations": {PREFIX + name: value for name, value in (annotations or {}).items()},
        **more.pop("metadata", {}),
    }
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}
    raw = {
        "metadata": metadata,
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}], **more},
        "status": {"phase": "Pending", "conditions": [scheduled], **(status or {})},
    }
    return msgspec.convert(raw, PodView)


def running(ready: bool = True, restarts: int = 0) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    state = {"running": {"startedAt": "2026-01-01T12:00:00Z"}}
    statuses = [{"ready": ready, "restartCount": restarts, "state": state}]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": statuses}


def test_a_bound_pod_starts_at_once_or_after_a_while() -> None:
    assert next_step(pod(), T0) == Next(Step.START, T0)
    assert next_step(pod({"start-after": "1m30s"}), T0) == Next(Step.START, T0 + 90 * SECOND)
    assert next_step(pod({"start-after": "soon"}), T0) == Next(Step.START, T0)


def test_a_running_pod_becomes_ready_and_stays() -> None:
    assert next_step(pod({"ready-after": "3s"}, running(ready=False)), T0) == Next(Step.READY, T0 + 3 * SECOND)
    assert next_step(pod(status=running()), T0) is None


def test_readiness_gates_are_waited_for() -> None:
    gated = {"readinessGates": [{"conditionType": "example.com/ok"}]}
    status = running()
    status["conditions"] = [{"type": "Ready", "status": "False"}]
    assert next_step(pod(status=status, **gated), T0) is None
    status["conditions"].append({"type": "example.com/ok", "status": "True"})
    assert next_step(pod(status=status, **gated), T0) == Next(Step.READY, T0)


@pytest.mark.parametrize(
    ("policy", "code", "step"),
    [
        ("Always", "0", Step.BACK_OFF),
        ("Always", "1", Step.BACK_OFF),
        ("OnFailure", "0", Step.END),
        ("OnFailure", "2", Step.BACK_OFF),
        ("Never", "0", Step.END),
        ("Never", "137", Step.END),
    ],
)
def test_how_a_pod_ends(policy: str, code: str, step: Step) -> None:
    ends = pod({"run-for": "5s", "exit-code": code}, running(), restartPolicy=policy)
    assert next_step(ends, T0) == Next(step, T0 + 5 * SECOND)


def test_a_jobs_pod_ends_by_itself() -> None:
    owner = [{"kind": "Job", "controller": True}]
    job = pod(status=running(), restartPolicy="Never", metadata={"ownerReferences": owner})
    assert next_step(job, T0) == Next(Step.END, T0 + SECOND)


def test_what_ended_starts_again_after_a_back_off_that_doubles() -> None:
    status = running(ready=False, restarts=2)
    terminated = {"finishedAt": "2026-01-01T12:00:00Z"}
    status["containerStatuses"][0] |= {"state": {"waiting": {}}, "lastState": {"terminated": terminated}}
    assert next_step(pod({"run-for": "1s"}, status), T0) == Next(Step.START, T0 + 40 * SECOND)
    assert [backoff(number) / SECOND for number in (0, 1, 2, 5, 60)] == [10, 20, 40, 300, 300]


def test_what_is_over_stays_so() -> None:
    assert next_step(pod(status={"phase": "Succeeded"}), T0) is None
    assert next_step(pod(status={"phase": "Failed"}), T0) is None


def test_deletion_waits_at_most_for_the_grace_period_and_tells_those_with_finalizers_first() -> None:
    deleted: dict[str, Any] = {"deletionTimestamp": "2026-01-01T12:00:30Z", "deletionGracePeriodSeconds": 30}
    assert next_step(pod(status=running(), metadata=deleted), T0) == Next(Step.REMOVE, T0)
    late = pod({"stop-after": "10s"}, running(), metadata=deleted)
    assert next_step(late, T0) == Next(Step.REMOVE, T0 + 10 * SECOND)
    later = pod({"stop-after": "10m"}, running(), metadata=deleted)
    assert next_step(later, T0) == Next(Step.REMOVE, T0 + 30 * SECOND)
    held = {**deleted, "finalizers": ["batch.kubernetes.io/job-tracking"]}
    assert next_step(pod(status=running(), metadata=held), T0) == Next(Step.STOP, T0)
    assert next_step(pod(status={"phase": "Failed"}, metadata=held), T0) == Next(Step.REMOVE, T0)
    removed = {**held, "deletionGracePeriodSeconds": 0}
    assert next_step(pod(status={"phase": "Failed"}, metadata=removed), T0) is None


def test_the_first_status_says_all_a_kubelet_says() -> None:
    status = patch_for(Step.START, pod(), T0, "100.64.0.2", "198.18.0.0", True)["status"]
    assert status["phase"] == "Running"
    assert status["podIPs"] == [{"ip": "100.64.0.2"}] and status["hostIPs"] == [{"ip": "198.18.0.0"}]
    conditions = {each["type"]: each["status"] for each in status["conditions"]}
    assert conditions == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "ContainersReady": "True",
        "Ready": "True",
    }
    (container,) = status["containerStatuses"]
    assert container["ready"] and container["state"] == {"running": {"startedAt": "2026-01-01T12:00:00Z"}}


def test_a_restart_is_counted_and_keeps_the_address() -> None:
    status = running(ready=False, restarts=1) | {"podIP": "100.64.0.9"}
    status["containerStatuses"][0]["state"] = {"waiting": {}}
    patch = patch_for(Step.START, pod(status=status), T0, "100.64.0.9", "198.18.0.0", True)["status"]
    assert patch["containerStatuses"][0]["restartCount"] == 2
    assert "podIP" not in patch and "startTime" not in patch


def test_the_end_has_its_exit_code_and_ready_says_why_not() -> None:
    failed = patch_for(Step.END, pod({"exit-code": "3"}, running()), T0 + SECOND, "", "", True)
    assert failed["metadata"] == {"uid": "u"}
    assert failed["status"]["phase"] == "Failed"
    assert failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    ready = next(each for each in failed["status"]["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PodFailed")
    stopped = patch_for(Step.STOP, pod(status=running()), T0, "", "", True)["status"]
    assert stopped["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143


def test_addresses_are_given_once_and_come_back_late() -> None:
    addresses = Addresses()
    first, second = ObjectName("d", "a"), ObjectName("d", "b")
    assert addresses.take(first, "100.64.0.0/24") == "100.64.0.2"
    assert addresses.take(first, "100.64.0.0/24") == "100.64.0.2"
    addresses.release(first)
    assert addresses.take(second, "100.64.0.0/24") == "100.64.0.3"  # not the one just left
    crowd = [addresses.take(ObjectName("d", str(number)), "100.64.0.0/24") for number in range(253)]
    assert crowd.count("") == 1 and len(set(crowd)) == 253
    assert addresses.take(ObjectName("d", "none"), "") == ""
