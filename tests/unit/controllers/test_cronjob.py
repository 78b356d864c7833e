"""CronJobs: reading schedules, starting on time once, concurrency, history; and the end of finished Jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.unit.controllers.harness import World, names, template
from tiphys.controllers.cronjob import CronJobController
from tiphys.controllers.cronjob.schedule import due, parse_schedule
from tiphys.controllers.ttlafterfinished import TTLAfterFinishedController

CRONS = "/apis/batch/v1/cronjobs"
JOBS = "/apis/batch/v1/jobs"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "found"),
    [
        pytest.param("* * * * *", "2024-01-01 00:00:00", "2024-01-01 00:01", id="every minute"),
        pytest.param("*/15 9-17 * * mon-fri", "2024-01-05 17:45:00", "2024-01-08 09:00", id="over the weekend"),
        pytest.param("0 0 29 2 *", "2024-03-01 00:00:00", "2028-02-29 00:00", id="leap day"),
        pytest.param("0 0 13 * fri", "2024-01-01 00:00:00", "2024-01-05 00:00", id="either day counts"),
        pytest.param("0 12 * * 7", "2024-01-01 00:00:00", "2024-01-07 12:00", id="seven is Sunday"),
        pytest.param("@hourly", "2024-01-01 00:30:00", "2024-01-01 01:00", id="macro"),
        pytest.param("@every 90s", "2024-01-01 00:00:00", "2024-01-01 00:01:30", id="every"),
        pytest.param("5/20 * * * *", "2024-01-01 00:06:00", "2024-01-01 00:25", id="step from a start"),
        pytest.param("0 0 30 2 *", "2024-01-01 00:00:00", None, id="never"),
    ],
)
def test_the_next_time_of_a_schedule(schedule: str, after: str, found: str | None) -> None:
    assert parse_schedule(schedule, UTC).after(at(after)) == (at(found) if found is not None else None)


def test_wall_times_follow_the_time_zone_and_its_changes() -> None:
    schedule = parse_schedule("30 2 * * *", ZoneInfo("Europe/Berlin"))
    # On 2024-03-31 there is no half past two.
    assert schedule.after(at("2024-03-30 02:00")) == at("2024-04-01 00:30")
    assert schedule.after(at("2024-01-01 00:00")) == at("2024-01-01 01:30")


@pytest.mark.parametrize("text", ["", "* * * *", "60 * * * *", "a * * * *", "5-1 * * * *", "*/0 * * * *"])
def test_a_bad_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_schedule(text, UTC)


def test_missed_times_are_counted_up_to_too_many_and_the_last_one_is_found() -> None:
    schedule = parse_schedule("* * * * *", UTC)
    now = at("2024-01-02 00:00:30")
    assert due(schedule, now - timedelta(minutes=3), now, None) == (at("2024-01-02 00:00"), 3)
    latest, count = due(schedule, now - timedelta(days=30), now, None)
    assert (latest, count > 100) == (at("2024-01-02 00:00"), True)
    assert due(schedule, now - timedelta(days=30), now, timedelta(seconds=10)) == (None, 0)


def cron(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "c", "namespace": "default"},
        "spec": {
            "schedule": "* * * * *",
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 2,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {"spec": {"template": template()}},
            **spec,
        },
        "status": {},
    }


def finish(world: World, name: str, kind: str = "Complete") -> None:
    now = world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": kind, "status": "True", "lastTransitionTime": now}
    world.api.change(
        JOBS, "default", name, {"status": {"conditions": [condition], "completionTime": now, "startTime": now}}
    )


async def test_a_job_each_minute_and_only_the_last_ones_are_kept() -> None:
    world = World()
    world.api.put(CRONS, cron())
    async with world.running(CronJobController):
        for _ in range(5):
            await world.pass_time(60)
            for job in world.api.list(JOBS):
                if not job.get("status"):
                    finish(world, job["metadata"]["name"])
        await world.pass_time(1)
    # Two finished ones are kept, the fifth has just begun.
    assert len(world.api.list(JOBS)) == 3
    found = world.api.get(CRONS, "default", "c")
    assert found is not None
    assert found["status"]["lastScheduleTime"] == "2024-01-01T00:05:00Z"
    assert len(found["status"]["active"]) == 1
    (last,) = [
        job
        for job in world.api.list(JOBS)
        if job["metadata"]["name"] == f"c-{int(at('2024-01-01 00:05').timestamp()) // 60}"
    ]
    assert last["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"] == "2024-01-01T00:05:00Z"


async def test_a_job_somebody_made_from_it_is_told_and_not_counted() -> None:
    world = World()
    world.api.put(CRONS, cron(schedule="0 0 1 1 *"))
    owner = world.api.list(CRONS)[0]["metadata"]
    reference = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": owner["uid"], "controller": True}
    world.api.put(
        JOBS, {"metadata": {"name": "by-hand", "namespace": "default", "ownerReferences": [reference]}, "spec": {}}
    )
    async with world.running(CronJobController):
        await world.settle()
        finish(world, "by-hand")
        await world.settle()
    found = world.api.get(CRONS, "default", "c")
    assert found is not None
    assert not found["status"].get("active")
    message = "Saw a job that the controller did not create or forgot: by-hand"
    assert world.events() == [("UnexpectedJob", message)]
    assert "lastSuccessfulTime" in found["status"]


@pytest.mark.parametrize(("policy", "jobs"), [("Allow", 3), ("Forbid", 1), ("Replace", 1)])
async def test_what_happens_while_the_last_job_still_runs(policy: str, jobs: int) -> None:
    world = World()
    world.api.put(CRONS, cron(concurrencyPolicy=policy))
    async with world.running(CronJobController):
        await world.pass_time(185, step=1)
    assert len(world.api.list(JOBS)) == jobs
    first = f"c-{int(at('2024-01-01 00:01').timestamp()) // 60}"
    assert (first in names(world.api.list(JOBS))) is (policy != "Replace")


async def test_a_suspended_one_starts_nothing_and_an_unknown_zone_is_told() -> None:
    world = World()
    world.api.put(CRONS, cron(suspend=True))
    other = cron(timeZone="Nowhere/Atlantis")
    other["metadata"]["name"] = "zone"
    world.api.put(CRONS, other)
    async with world.running(CronJobController):
        await world.pass_time(130, step=1)
    assert world.api.list(JOBS) == []
    assert "UnknownTimeZone" in {reason for reason, _ in world.events()}


@pytest.mark.parametrize("seed", range(4))
async def test_every_time_has_exactly_one_job_through_faults_and_restarts(seed: int) -> None:
    world = World(faults=seed)
    world.api.put(CRONS, cron(successfulJobsHistoryLimit=None))
    for _ in range(4):
        async with world.running(CronJobController):
            await world.pass_time(90, step=1)
    async with world.running(CronJobController):
        world.faulty.heal()
        await world.pass_time(20)
    start = int(at("2024-01-01 00:00").timestamp()) // 60
    made = {int(name.rpartition("-")[2]) - start for name in names(world.api.list(JOBS))}
    # A time may be passed over only when nobody ran at it; none is ever run twice, as the names are the times.
    assert max(made) == 6
    assert len(made) >= 5


async def test_finished_jobs_go_when_their_time_is_over() -> None:
    world = World()
    for name, ttl in (("soon", 10), ("later", 100), ("never", None)):
        spec = {} if ttl is None else {"ttlSecondsAfterFinished": ttl}
        world.api.put(JOBS, {"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": {}})
        finish(world, name)
    world.api.put(JOBS, {"metadata": {"name": "runs", "namespace": "default"}, "spec": {"ttlSecondsAfterFinished": 1}})
    async with world.running(TTLAfterFinishedController):
        await world.pass_time(5)
        assert len(world.api.list(JOBS)) == 4
        await world.pass_time(10)
        deleted = [job for job in world.api.list(JOBS) if "deletionTimestamp" in job["metadata"]]
        assert names(deleted) == ["soon"]
        await world.pass_time(100)
    deleted = [job for job in world.api.list(JOBS) if "deletionTimestamp" in job["metadata"]]
    assert names(deleted) == ["later", "soon"]
