"""The queue in virtual time: what is tried when, and what wakes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from tests.unit.scheduler.builders import make_framework, make_node, make_pod
from tiphys.api.resource.v1 import ResourceClaim
from tiphys.base.clock import FakeClock
from tiphys.base.tasks import Supervised
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler.framework.events import Event
from tiphys.scheduler.framework.interface import Refusal
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.queue import QueuedPod, SchedulingQueue


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def queue(clock: FakeClock) -> AsyncIterator[SchedulingQueue]:
    queue = SchedulingQueue({"default-scheduler": make_framework()}, clock)
    async with Supervised(clock) as tasks:
        tasks.spawn(queue.run, name="queue")
        yield queue


def popped(queue: SchedulingQueue) -> QueuedPod:
    pod = queue.pop()
    assert pod is not None
    return pod


def reject(queue: SchedulingQueue, pod: QueuedPod, *plugins: str) -> None:
    pod.unschedulable_plugins = set(plugins)
    queue.add_unschedulable(pod)


def changed(pod: PodInfo, **spec: Any) -> PodInfo:
    return PodInfo(msgspec.structs.replace(pod.pod, spec=msgspec.structs.replace(pod.pod.spec, **spec)))


async def test_by_priority_then_by_time(queue: SchedulingQueue, clock: FakeClock) -> None:
    for name, priority in (("old", 0), ("new", 0), ("important", 10)):
        queue.add(make_pod(name, priority=priority))
        await clock.advance(0.01)
    assert [popped(queue).info.key.name for _ in range(3)] == ["important", "old", "new"]
    assert queue.pop() is None


async def test_an_unschedulable_pod_waits_for_an_event_its_plugin_asks_for(queue: SchedulingQueue) -> None:
    queue.add(make_pod("p", {"cpu": "2"}))
    reject(queue, popped(queue), "NodeResourcesFit")
    queue.happened(Event.NODE_LABEL, make_node("a"), make_node("a"))  # labels are not about resources
    queue.happened(Event.NODE_ADD, None, make_node("small", cpu="1"))  # could not hold it even empty
    assert queue.counts()["unschedulable"] == 1
    queue.happened(Event.NODE_ADD, None, make_node("large", cpu="4"))
    assert popped(queue).info.key.name == "p"


async def test_a_pod_that_goes_helps_only_who_wants_what_it_had(queue: SchedulingQueue) -> None:
    queue.add(make_pod("p", {"cpu": "2"}))
    reject(queue, popped(queue), "NodeResourcesFit")
    assert queue.pop() is None
    queue.happened(Event.POD_DELETE, make_pod("q", {"cpu": "1"}), None)
    assert queue.pop() is not None


async def test_an_event_during_the_attempt_is_not_lost(queue: SchedulingQueue) -> None:
    queue.add(make_pod("p", {"cpu": "2"}))
    pod = popped(queue)
    queue.happened(Event.NODE_ADD, None, make_node("large"))
    reject(queue, pod, "NodeResourcesFit")
    assert queue.counts() == {"active": 0, "backoff": 1, "unschedulable": 0, "gated": 0}


async def test_an_event_before_the_attempt_does_not_count(queue: SchedulingQueue) -> None:
    queue.add(make_pod("other"))
    other = popped(queue)
    queue.add(make_pod("p", {"cpu": "2"}))
    queue.happened(Event.NODE_ADD, None, make_node("large"))
    pod = popped(queue)
    queue.done(other.info.uid)
    reject(queue, pod, "NodeResourcesFit")
    assert queue.counts()["unschedulable"] == 1


async def test_backoff_doubles_after_errors(queue: SchedulingQueue, clock: FakeClock) -> None:
    queue.add(make_pod("p"))
    for seconds in (1, 2, 4, 8, 10, 10):
        queue.add_after_error(popped(queue))
        await clock.advance(seconds - 0.5)
        assert queue.pop() is None
        await clock.advance(1)
        assert queue.counts()["active"] == 1


async def test_an_idle_scheduler_does_not_wait_out_a_backoff(queue: SchedulingQueue) -> None:
    queue.add(make_pod("p", {"cpu": "2"}))
    reject(queue, popped(queue), "NodeResourcesFit")
    queue.happened(Event.NODE_ADD, None, make_node("large"))
    queue.add(make_pod("fresh"))
    assert [popped(queue).info.key.name for _ in range(2)] == ["fresh", "p"]


async def test_after_five_minutes_it_is_tried_again_anyway(queue: SchedulingQueue, clock: FakeClock) -> None:
    queue.add(make_pod("p"))
    reject(queue, popped(queue), "NodeAffinity")
    for _ in range(11):
        await clock.advance(30)
        if queue.counts()["unschedulable"] == 0:
            break
    assert clock.monotonic() > 300
    assert popped(queue).info.key.name == "p"


async def test_gates(queue: SchedulingQueue) -> None:
    gated = make_pod("p", schedulingGates=[{"name": "a"}])
    queue.add(gated)
    assert queue.counts()["gated"] == 1
    queue.happened(Event.NODE_ADD, None, make_node("a"))
    assert queue.pop() is None
    queue.update(gated, changed(gated, scheduling_gates=()))
    assert popped(queue).info.key.name == "p"


async def test_its_own_update_wakes_it_when_that_helps(queue: SchedulingQueue) -> None:
    pod = make_pod("p", {"cpu": "2"})
    queue.add(pod)
    reject(queue, popped(queue), "TaintToleration")
    queue.update(pod, changed(pod, tolerations=pod.pod.spec.tolerations, node_selector={"a": "b"}))
    assert popped(queue).info.pod.spec.node_selector == {"a": "b"}


async def test_a_deleted_pod_is_not_tried(queue: SchedulingQueue) -> None:
    for name in ("a", "b"):
        queue.add(make_pod(name))
    first = popped(queue)
    reject(queue, first, "NodeAffinity")
    queue.delete(first.info.uid)
    second = queue._active.peek()
    assert second is not None
    queue.delete(second.info.uid)
    assert queue.pop() is None
    assert sum(queue.counts().values()) == 0


async def test_a_pod_for_which_room_is_made_waits_for_that_alone(queue: SchedulingQueue) -> None:
    queue.add(make_pod("p", {"cpu": "2"}))
    pod = popped(queue)
    pod.unschedulable_plugins = {"NodeResourcesFit"}
    queue.hold(pod)
    queue.happened(Event.POD_DELETE, make_pod("first victim", {"cpu": "1"}), None)
    assert queue.pop() is None
    assert queue.counts()["unschedulable"] == 1
    queue.release(pod.info.uid, now=False)
    assert queue.pop() is None
    queue.happened(Event.POD_DELETE, make_pod("last victim", {"cpu": "1"}), None)
    queue.hold(popped(queue))
    queue.release(pod.info.uid, now=True)
    assert popped(queue) is pod
    queue.release(pod.info.uid, now=True)  # it is not held any more
    assert queue.pop() is None


async def test_who_misses_something_waits_for_it_to_come(clock: FakeClock) -> None:
    """A plugin's own gate opens with the events the plugin asks for, not only with the pod's update."""
    framework = make_framework()
    queue = SchedulingQueue({"default-scheduler": framework}, clock)
    opened, awaited = False, ObjectName("default", "mine")
    framework._pre_enqueue.append(("DynamicResources", Gate(lambda: opened, awaited)))
    queue.add(make_pod("p"))
    assert queue.counts()["gated"] == 1
    opened = True
    other, mine = (
        msgspec.convert({"metadata": {"namespace": "default", "name": name}}, ResourceClaim)
        for name in ("other", "mine")
    )
    queue.happened(Event.RESOURCE_CLAIM, None, other)
    assert queue.counts()["gated"] == 1
    queue.happened(Event.RESOURCE_CLAIM, None, mine)
    assert popped(queue).info.key.name == "p"


class Gate:
    """Refuses until it is open."""

    def __init__(self, is_open: Callable[[], bool], about: ObjectName) -> None:
        self._is_open = is_open
        self._about = about

    def pre_enqueue(self, _: PodInfo) -> Refusal | None:
        return None if self._is_open() else Refusal("not yet", about=self._about)
