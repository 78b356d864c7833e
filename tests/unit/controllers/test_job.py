"""The Job controller: completions, indexes, limits, suspension, policies; nothing is counted twice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.client.faults import Rates
from tests.unit.controllers.harness import PODS, World, template
from tiphys.controllers.job import JobController
from tiphys.controllers.job.indexes import format_indexes, parse

JOBS = "/apis/batch/v1/jobs"


def job(**spec: Any) -> dict[str, Any]:
    pod_template = template(labels={"job": "j"})
    pod_template["spec"]["restartPolicy"] = "Never"
    return {
        "metadata": {"name": "j", "namespace": "default"},
        "spec": {
            "parallelism": 2,
            "completions": 4,
            "backoffLimit": 6,
            "selector": {"matchLabels": {"job": "j"}},
            "template": pod_template,
            "podReplacementPolicy": "TerminatingOrFailed",
            **spec,
        },
        "status": {},
    }


class Succeeding(World):
    """Whose pods all end well."""

    def ends(self, pod: dict[str, Any]) -> str:
        return "Succeeded"


def current(world: World) -> dict[str, Any]:
    found = world.api.get(JOBS, "default", "j")
    assert found is not None
    return found["status"]


def conditions(world: World) -> dict[str, str]:
    return {item["type"]: item["reason"] for item in current(world).get("conditions", []) if item["status"] == "True"}


def index(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index", ""))


@pytest.mark.parametrize(
    ("indexes", "text"),
    [
        pytest.param(set(), "", id="none"),
        pytest.param({1}, "1", id="one"),
        pytest.param({1, 2}, "1,2", id="pair"),
        pytest.param({1, 3, 4, 5, 7}, "1,3-5,7", id="runs"),
    ],
)
def test_indexes_are_written_as_runs(indexes: set[int], text: str) -> None:
    assert format_indexes(indexes) == text
    assert parse(text, 10) == indexes


async def test_it_completes_with_the_asked_number_of_successes() -> None:
    world = World()
    world.ends = lambda pod: "Succeeded"  # type: ignore[method-assign]
    world.api.put(JOBS, job())
    most = 0
    async with world.running(JobController):
        for _ in range(200):
            await world.clock.advance(0.25)
            running = [
                pod for pod in world.api.list(PODS) if pod.get("status", {}).get("phase") in (None, "", "Running")
            ]
            most = max(most, len(running))
    assert most == 2
    status = current(world)
    assert conditions(world) == {"SuccessCriteriaMet": "CompletionsReached", "Complete": "CompletionsReached"}
    assert (status["succeeded"], status["ready"], status["terminating"]) == (4, 0, 0)
    assert "active" not in status
    assert status["completionTime"]
    assert len(world.api.list(PODS)) == 4
    assert not any(pod["metadata"].get("finalizers") for pod in world.api.list(PODS))
    assert ("Completed", "Job completed") in world.events()


async def test_failures_beyond_the_limit_fail_the_job() -> None:
    world = World()
    world.ends = lambda pod: "Failed"  # type: ignore[method-assign]
    world.api.put(JOBS, job(completions=1, parallelism=1, backoffLimit=2))
    async with world.running(JobController):
        await world.settle(seconds=120, step=1)
    assert conditions(world) == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}
    assert current(world)["failed"] == 3
    assert len(world.api.list(PODS)) == 3


async def test_retries_wait_longer_and_longer() -> None:
    world = World()
    world.ends = lambda pod: "Failed"  # type: ignore[method-assign]
    world.api.put(JOBS, job(completions=1, parallelism=1))
    counts = []
    async with world.running(JobController):
        for _ in range(4):
            await world.pass_time(10)
            counts.append(len(world.api.list(PODS)))
    assert counts == [1, 2, 2, 3]


async def test_an_indexed_job_runs_every_index_once() -> None:
    world = World()
    world.ends = lambda pod: "Succeeded"  # type: ignore[method-assign]
    world.api.put(JOBS, job(completionMode="Indexed", completions=5, parallelism=3))
    async with world.running(JobController):
        await world.settle()
    assert current(world)["completedIndexes"] == "0-4"
    assert sorted(map(index, world.api.list(PODS))) == list("01234")
    pod = world.api.list(PODS)[0]
    assert pod["spec"]["hostname"] == "j-0"
    assert pod["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"


async def test_a_pod_whose_creation_got_no_answer_is_not_made_again() -> None:
    # The watch breaks together with the answer, as when the API server dies; the pods are slow to come back.
    rates = Rates(refused=0, lost=0.3, conflict=0, broken=0.5, delayed=1, repeated=0, expired=0)
    world = Succeeding(faults=3, rates=rates)
    world.api.put(JOBS, job(completionMode="Indexed", completions=20, parallelism=5))
    async with world.running(JobController):
        await world.settle()
        world.faulty.heal()
        await world.settle()
    assert conditions(world)["Complete"] == "CompletionsReached"
    made = [index(pod) for pod in world.api.list(PODS)]
    assert sorted(made, key=int) == [str(number) for number in range(20)]


async def test_a_limit_for_each_index_fails_only_that_index() -> None:
    world = World()
    world.ends = lambda pod: "Failed" if index(pod) == "1" else "Succeeded"  # type: ignore[method-assign]
    world.api.put(
        JOBS,
        job(completionMode="Indexed", completions=3, parallelism=3, backoffLimitPerIndex=1, backoffLimit=2**31 - 1),
    )
    async with world.running(JobController):
        await world.settle(seconds=120, step=1)
    status = current(world)
    assert (status["completedIndexes"], status["failedIndexes"], status["failed"]) == ("0,2", "1", 2)
    assert conditions(world)["Failed"] == "FailedIndexes"


async def test_a_success_policy_ends_the_job_early() -> None:
    world = World()
    world.ends = lambda pod: "Succeeded" if index(pod) == "0" else ""  # type: ignore[method-assign]
    rules = {"rules": [{"succeededIndexes": "0"}]}
    world.api.put(JOBS, job(completionMode="Indexed", completions=3, parallelism=3, successPolicy=rules))
    async with world.running(JobController):
        await world.settle()
    assert conditions(world) == {"SuccessCriteriaMet": "SuccessPolicy", "Complete": "SuccessPolicy"}
    assert len(world.api.list(PODS)) == 1


async def test_a_failure_policy_fails_the_job_at_once() -> None:
    world = World()
    world.ends = lambda pod: "Failed"  # type: ignore[method-assign]
    rules = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]}
    world.api.put(JOBS, job(completions=1, parallelism=1, podFailurePolicy=rules))
    async with world.running(JobController):
        await world.settle()
    assert conditions(world)["Failed"] == "PodFailurePolicy"
    (failed,) = [item for item in current(world)["conditions"] if item["type"] == "Failed"]
    assert failed["message"].endswith("failed with exit code 1 matching FailJob rule at index 0")


async def test_suspending_stops_the_pods_and_resuming_starts_anew() -> None:
    world = World()
    world.api.put(JOBS, job())
    async with world.running(JobController):
        await world.settle()
        assert current(world)["active"] == 2
        world.api.change(JOBS, "default", "j", {"spec": {"suspend": True}})
        await world.settle()
        assert conditions(world) == {"Suspended": "JobSuspended"}
        assert world.api.list(PODS) == []
        assert "startTime" not in current(world)
        world.ends = lambda pod: "Succeeded"  # type: ignore[method-assign]
        world.api.change(JOBS, "default", "j", {"spec": {"suspend": False}})
        await world.settle(seconds=60)
    assert conditions(world)["Complete"] == "CompletionsReached"


async def test_a_deadline_ends_it() -> None:
    world = World()
    world.api.put(JOBS, job(activeDeadlineSeconds=20))
    async with world.running(JobController):
        await world.pass_time(15)
        assert conditions(world) == {}
        await world.pass_time(15)
    assert conditions(world)["Failed"] == "DeadlineExceeded"
    assert world.api.list(PODS) == []


def owners(pod: dict[str, Any]) -> list[str]:
    return [reference["name"] for reference in pod["metadata"].get("ownerReferences", [])]


async def test_a_pod_without_owner_is_adopted_and_counted() -> None:
    world = World()
    world.api.put(JOBS, job(completions=2))
    async with world.running(JobController):
        await world.settle()
        lost = world.api.list(PODS)[0]["metadata"]["name"]
        world.api.change(PODS, "default", lost, {"metadata": {"ownerReferences": None, "finalizers": None}})
        await world.settle()
        adopted = world.api.get(PODS, "default", lost)
        assert adopted is not None
        assert owners(adopted) == ["j"]
        assert adopted["metadata"]["finalizers"] == ["batch.kubernetes.io/job-tracking"]
        world.ends = lambda pod: "Succeeded"  # type: ignore[method-assign]
        await world.settle()
    assert current(world)["succeeded"] == 2


async def test_a_pod_that_matches_no_longer_is_let_go_and_waits_for_nobody() -> None:
    world = World()
    world.api.put(JOBS, job(completions=2))
    async with world.running(JobController):
        await world.settle()
        lost = world.api.list(PODS)[0]["metadata"]["name"]
        world.api.change(PODS, "default", lost, {"metadata": {"labels": {"job": None}}})
        await world.settle()
    released = world.api.get(PODS, "default", lost)
    assert released is not None
    assert owners(released) == []
    assert not released["metadata"].get("finalizers")
    assert len(world.api.list(PODS)) == 3


async def test_pods_of_a_predecessor_with_the_same_name_do_not_wait_for_it() -> None:
    world = World()
    world.api.put(JOBS, job(completions=2))
    async with world.running(JobController):
        await world.settle()
        before = {pod["metadata"]["name"] for pod in world.api.list(PODS)}
        world.api.remove(JOBS, "default", "j")
        world.api.put(JOBS, job(completions=2))
        await world.settle()
    for pod in world.api.list(PODS):
        waits = bool(pod["metadata"].get("finalizers"))
        assert waits == (pod["metadata"]["name"] not in before)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", ["NonIndexed", "Indexed"])
async def test_every_end_is_counted_exactly_once_through_faults_and_restarts(seed: int, mode: str) -> None:
    world = World(faults=seed)
    ended: dict[str, str] = {}

    def end(pod: dict[str, Any]) -> str:
        uid = pod["metadata"]["uid"]
        return ended.setdefault(uid, "Failed" if len(ended) % 4 == 3 else "Succeeded")

    world.ends = end  # type: ignore[method-assign]
    world.api.put(JOBS, job(completions=12, parallelism=4, completionMode=mode, backoffLimit=50))
    for _ in range(3):
        async with world.running(JobController):
            await world.pass_time(8)
    async with world.running(JobController):
        await world.pass_time(8)
        world.faulty.heal()
        await world.settle(seconds=700, step=2)
    status = current(world)
    assert conditions(world)["Complete"] == "CompletionsReached"
    succeeded = [uid for uid, phase in ended.items() if phase == "Succeeded"]
    if mode == "Indexed":
        assert (status["succeeded"], status["completedIndexes"]) == (12, "0-11")
    else:
        assert status["succeeded"] == len(succeeded)
    assert status["uncountedTerminatedPods"] == {}
    assert not any(pod["metadata"].get("finalizers") for pod in world.api.list(PODS))
    assert status.get("failed", 0) >= sum(phase == "Failed" for phase in ended.values())
