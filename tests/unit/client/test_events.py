"""Events: repetitions are counted, similar ones joined, talkative sources silenced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from tests.unit.client.fakeapi import FakeApi
from tiphys.api.core.v1 import Event, EventSource, ObjectReference, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.clock import FakeClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, EventRecorder, RestConfig
from tiphys.client.events import DROPPED, WRITERS, Correlator
from tiphys.client.transport import Response

EVENTS = "/api/v1/events"


def event(message: str, name: str = "p", reason: str = "Failed") -> Event:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    return Event(
        metadata=ObjectMeta(name=f"{name}.{message}", namespace="default"),
        involved_object=ObjectReference(kind="Pod", namespace="default", name=name, uid=name),
        reason=reason,
        message=message,
        type="Warning",
        source=EventSource(component="test"),
        count=1,
        first_timestamp=moment,
        last_timestamp=moment,
    )


def test_a_repetition_counts_into_the_first_event() -> None:
    correlator = Correlator()
    first = correlator.correlate(event("same"), 0)
    again = correlator.correlate(event("same"), 5)
    assert first is not None
    assert again is not None
    assert (again.count, again.metadata.name) == (2, first.metadata.name)


def test_the_tenth_different_message_begins_a_combined_event() -> None:
    correlator = Correlator()
    written = [correlator.correlate(event(f"m{i}"), i) for i in range(12)]
    messages = [found.message for found in written if found is not None]
    assert messages[:9] == [f"m{i}" for i in range(9)]
    assert messages[9:] == [f"(combined from similar events): m{i}" for i in range(9, 12)]
    assert [found.count for found in written if found is not None][9:] == [1, 2, 3]


def test_similar_events_far_apart_are_not_combined() -> None:
    correlator = Correlator()
    written = [correlator.correlate(event(f"m{i}"), i * 700.0) for i in range(20)]
    assert all(found is not None and not found.message.startswith("(combined") for found in written)


def test_one_source_may_say_25_things_about_an_object_then_one_in_five_minutes() -> None:
    correlator = Correlator()
    written = [correlator.correlate(event("same"), 0) for _ in range(40)]
    assert sum(found is not None for found in written) == 25
    assert correlator.correlate(event("same"), 301) is not None
    assert correlator.correlate(event("same"), 302) is None
    assert correlator.correlate(event("same", name="other"), 302) is not None


async def test_the_recorder_writes_and_patches_events() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    recorder = EventRecorder(
        Client(RestConfig(server="http://test"), clock=clock, transport=api), clock, "kubelet", "n1"
    )
    pod = Pod(metadata=ObjectMeta(name="p", namespace="default", uid="u"))
    async with Supervised(clock) as tasks:
        tasks.spawn(recorder.run, name="events")
        for _ in range(3):
            recorder.event(pod, "Normal", "Started", "Started container c", field_path="spec.containers{c}")
            await clock.advance(2)
    (found,) = api.list(EVENTS)
    assert found["count"] == 3
    assert (found["firstTimestamp"], found["lastTimestamp"]) == ("2024-01-01T00:00:00Z", "2024-01-01T00:00:04Z")
    assert found["source"] == {"component": "kubelet", "host": "n1"}
    assert found["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "p",
        "namespace": "default",
        "uid": "u",
        "fieldPath": "spec.containers{c}",
    }


class SlowApi(FakeApi):
    """Every request takes a second; counts how many are under way at once."""

    now = most = 0

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.clock.sleep(1)
            return await super().request(method, target, headers, body)
        finally:
            self.now -= 1


def pod(name: str) -> Pod:
    return Pod(metadata=ObjectMeta(name=name, namespace="default", uid=name))


async def test_many_objects_are_written_about_at_once_and_each_in_order() -> None:
    clock = FakeClock()
    api = SlowApi(clock)
    recorder = EventRecorder(Client(RestConfig(server="http://test"), clock=clock, transport=api), clock, "test")
    for i in range(4 * WRITERS):
        for reason in ("First", "Second", "Third"):
            recorder.event(pod(f"p{i}"), "Normal", reason, f"{reason} of {i}")
    async with Supervised(clock) as tasks:
        running = tasks.spawn(recorder.run, name="events")
        await clock.advance(5.5)
        # Begun again, it goes on with what was not written yet.
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        tasks.spawn(recorder.run, name="events")
        for _ in range(30):
            await clock.advance(1)
    assert api.most == WRITERS
    found: dict[str, list[str]] = {}
    for entry in api.log:
        found.setdefault(entry.obj["involvedObject"]["name"], []).append(entry.obj["reason"])
    assert found == {f"p{i}": ["First", "Second", "Third"] for i in range(4 * WRITERS)}


async def test_what_is_dropped_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    client = Client(RestConfig(server="http://test"), clock=clock, transport=FakeApi(clock))
    recorder = EventRecorder(client, clock, "small", queue_size=2)
    before = DROPPED.labels("small").value
    with caplog.at_level(logging.WARNING):
        for i in range(5):
            recorder.event(pod(f"p{i}"), "Normal", "Started", "x")
    assert DROPPED.labels("small").value - before == 3
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["dropped 1 events"]
