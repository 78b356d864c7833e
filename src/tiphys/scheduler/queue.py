"""Pods waiting to be scheduled.

               add / an event that helps                 pop
    gated ----------> active (sorted) ------------------------> in flight -> bound
    unschedulable ------> back-off (by time) --> active              |
        ^                     ^                                      |
        |                     +---- an error, or an event that ------+
        +-------------------------- helps came meanwhile; or not ----+
        +------------ held, while room is being made for it <--------+

An unschedulable pod waits for an event that one of the plugins that rejected it asks for, at most five minutes;
then for what is left of its back-off (1 s, doubling to 10 s with its attempts). When nothing is active, pods that
back off after being unschedulable are taken early: the loop would only be idle. After an error they wait it out.
Events that arrive while a pod is being tried are remembered for it.
Source: "Scheduling Framework"; KEP-4247 queueing hints, KEP-5142 pop from back-off.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import key_of
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler import metrics
from tiphys.scheduler.framework.events import Event
from tiphys.scheduler.framework.interface import Refusal
from tiphys.scheduler.framework.runner import Framework
from tiphys.scheduler.podinfo import PodInfo

log = get_logger(__name__)

MAX_UNSCHEDULABLE: Final = 300.0  # seconds until a pod is tried again without an event
FLUSH_PERIOD: Final = 30.0
BACKOFF_PERIOD: Final = 1.0
_NO_NAME: Final = ObjectName("", "")


@dataclass(slots=True, eq=False)
class QueuedPod:
    """A pod in the queue. `timestamp` is when it entered its part of the queue, by the monotonic clock."""

    info: PodInfo
    framework: Framework
    timestamp: float
    first_attempt: float | None = None
    attempts: int = 0
    unschedulable_plugins: set[str] = field(default_factory=set)
    failed_with_error: bool = False
    gated: Refusal | None = None
    waits_for: tuple[Event | ObjectName, ...] = ()
    expected: str = ""  # the node the pod's status says it is about to be bound to


@dataclass(frozen=True, slots=True)
class _Happened:
    number: int
    event: Event
    old: Any
    new: Any


class _Heap:
    """Pods by a key, with removal: an entry that was removed is skipped when its turn comes."""

    def __init__(self, key: Callable[[QueuedPod], Any]) -> None:
        self._key = key
        self._heap: list[tuple[Any, int, QueuedPod]] = []
        self._order = itertools.count()
        self.pods: dict[str, QueuedPod] = {}

    def push(self, pod: QueuedPod) -> None:
        self.pods[pod.info.uid] = pod
        heapq.heappush(self._heap, (self._key(pod), next(self._order), pod))

    def remove(self, uid: str) -> QueuedPod | None:
        return self.pods.pop(uid, None)

    def peek(self) -> QueuedPod | None:
        while self._heap:
            pod = self._heap[0][2]
            if self.pods.get(pod.info.uid) is pod:
                return pod
            heapq.heappop(self._heap)
        return None

    def pop(self) -> QueuedPod | None:
        pod = self.peek()
        if pod is not None:
            heapq.heappop(self._heap)
            del self.pods[pod.info.uid]
        return pod

    def __len__(self) -> int:
        return len(self.pods)


class _Waiting:
    """Pods that wait for an event, and by event those that wait for it: most events are nobody's.

    A pod that waits for one object is found by the object's name.
    """

    def __init__(self) -> None:
        self.pods: dict[str, QueuedPod] = {}
        self._waiting: dict[Event | ObjectName, dict[str, QueuedPod]] = {}

    def add(self, pod: QueuedPod) -> None:
        uid = pod.info.uid
        self.pods[uid] = pod
        about = pod.gated.about if pod.gated is not None else None
        pod.waits_for = pod.framework.events_of(pod.unschedulable_plugins) if about is None else (about,)
        for key in pod.waits_for:
            self._waiting.setdefault(key, {})[uid] = pod

    def remove(self, uid: str) -> QueuedPod | None:
        pod = self.pods.pop(uid, None)
        for key in pod.waits_for if pod is not None else ():
            waiting = self._waiting[key]
            del waiting[uid]
            if not waiting:
                del self._waiting[key]
        return pod

    def waiting_for(self, event: Event, about: Any) -> list[QueuedPod]:
        """Those whom the event of an object may help."""
        if not self._waiting:
            return []
        return [*self._waiting.get(event, _NOBODY).values(), *self._waiting.get(_name_of(about), _NOBODY).values()]

    def __len__(self) -> int:
        return len(self.pods)


_NOBODY: Final[dict[str, QueuedPod]] = {}


class SchedulingQueue:
    """See the drawing above. All methods but `wait` return at once; keys are pod uids."""

    def __init__(
        self, frameworks: dict[str, Framework], clock: Clock, *, initial_backoff: float = 1.0, max_backoff: float = 10.0
    ) -> None:
        """`frameworks` by scheduler name; back-off in seconds."""
        self._frameworks = frameworks
        self._clock = clock
        self._initial_backoff = initial_backoff
        self._max_backoff = max_backoff
        sort = next(iter(frameworks.values())).queue_sort
        self._active = _Heap(lambda pod: sort.sort_key(pod))
        self._backoff = _Heap(self._backoff_end)
        self._error_backoff = _Heap(self._backoff_end)
        self._unschedulable = _Waiting()
        self._gated = _Waiting()
        self._held: dict[str, QueuedPod] = {}
        self._in_flight: dict[str, int] = {}  # uid -> number of the first event after it was popped
        self._events: deque[_Happened] = deque()
        self._event_count = 0
        self._wakeup = asyncio.Event()

    # In and out

    def add(self, info: PodInfo) -> None:
        """A new pod."""
        framework = self._frameworks[info.pod.spec.scheduler_name]
        self._activate(QueuedPod(info, framework, self._clock.monotonic()), "PodAdd")

    def update(self, old: PodInfo, new: PodInfo) -> None:
        """A pod changed while it waits, or while it is tried."""
        if new.uid in self._in_flight:
            self._record(Event.TARGET_POD_UPDATE, old, new)
            return
        for part in (self._active, self._backoff, self._error_backoff):
            pod = part.remove(new.uid)
            if pod is not None:
                pod.info = new
                part.push(pod)
                return
        pod = self._gated.remove(new.uid)
        if pod is not None:
            pod.info = new
            self._activate(pod, "PodUpdate")
            return
        pod = self._unschedulable.pods.get(new.uid) or self._held.get(new.uid)
        if pod is None:
            self.add(new)
            return
        pod.info = new
        if new.uid in self._held:
            return  # it looks at itself anew when there is room
        if old.pod.spec != new.pod.spec or old.labels != new.labels:
            self._requeue_if_helpful(pod, _Happened(0, Event.TARGET_POD_UPDATE, old, new))

    def delete(self, uid: str) -> None:
        """The pod is gone or bound by someone."""
        for part in (self._active, self._backoff, self._error_backoff):
            part.remove(uid)
        self._unschedulable.remove(uid)
        self._gated.remove(uid)
        self._held.pop(uid, None)

    def pop(self) -> QueuedPod | None:
        """The next pod to try, or None when there is none now. `done` or one of the `add_` methods must follow."""
        pod = self._active.pop() or self._backoff.pop()
        if pod is None:
            return None
        pod.attempts += 1
        if pod.first_attempt is None:
            pod.first_attempt = self._clock.monotonic()
        pod.unschedulable_plugins = set()
        self._in_flight[pod.info.uid] = self._event_count
        return pod

    async def wait(self) -> None:
        """Until there may be a pod to pop."""
        while not len(self._active) and not len(self._backoff):
            self._wakeup.clear()
            await self._wakeup.wait()

    def done(self, uid: str) -> None:
        """The pod needs nothing more: it is bound, or gone."""
        self._in_flight.pop(uid, None)
        if not self._in_flight:
            self._events.clear()
            return
        oldest = next(iter(self._in_flight.values()))  # the numbers grow in the order of pops
        while self._events and self._events[0].number <= oldest:
            self._events.popleft()

    def add_unschedulable(self, pod: QueuedPod) -> None:
        """The pod was tried and rejected by `pod.unschedulable_plugins`; events since then count."""
        since = self._in_flight.get(pod.info.uid, self._event_count)
        missed = list(itertools.takewhile(lambda event: event.number > since, reversed(self._events)))
        self.done(pod.info.uid)
        pod.timestamp = self._clock.monotonic()
        pod.failed_with_error = False
        self._unschedulable.add(pod)
        metrics.INCOMING.labels("unschedulable", "ScheduleAttemptFailure").inc()
        for happened in reversed(missed):
            if self._requeue_if_helpful(pod, happened):
                return

    def hold(self, pod: QueuedPod) -> None:
        """The pod was rejected and room is being made for it: until `release` no event brings it back."""
        self.done(pod.info.uid)
        pod.failed_with_error = False
        self._held[pod.info.uid] = pod
        metrics.INCOMING.labels("unschedulable", "ScheduleAttemptFailure").inc()

    def release(self, uid: str, *, now: bool) -> None:
        """Room was made, or was not to be had: try the pod `now`, or when an event that it waits for comes.

        Now is before those that came after it: who has room should not keep it from others for long.
        """
        pod = self._held.pop(uid, None)
        if pod is None:
            return
        if now:
            self._activate(pod, "ForceActivate")
        else:
            pod.timestamp = self._clock.monotonic()
            self._unschedulable.add(pod)

    def add_after_error(self, pod: QueuedPod) -> None:
        """Trying the pod failed for reasons of its own (the API, a plugin): try again after its back-off."""
        self.done(pod.info.uid)
        pod.timestamp = self._clock.monotonic()
        pod.failed_with_error = True
        self._error_backoff.push(pod)
        metrics.INCOMING.labels("backoff", "ScheduleAttemptFailure").inc()

    # Events

    def happened(self, event: Event, old: Any = None, new: Any = None) -> None:
        """Something changed in the cluster: wake the pods it may help."""
        if self._in_flight:
            self._record(event, old, new)
        waiting = self._unschedulable.waiting_for(event, new or old)
        gated = self._gated.waiting_for(event, new or old)
        if waiting or gated:
            happened = _Happened(0, event, old, new)
            for pod in waiting:
                self._requeue_if_helpful(pod, happened)
            for pod in gated:
                is_awaited = pod.gated is not None and pod.gated.about is not None
                if is_awaited or self._is_helpful(pod, happened):
                    self._gated.remove(pod.info.uid)
                    self._activate(pod, event.value)

    async def run(self) -> None:
        """Move pods whose time has come, until cancelled."""
        next_flush = self._clock.monotonic() + FLUSH_PERIOD
        while True:
            await self._clock.sleep(BACKOFF_PERIOD / 4)
            now = self._clock.monotonic()
            for part in (self._backoff, self._error_backoff):
                while (pod := part.peek()) is not None and self._backoff_end(pod) <= now:
                    part.pop()
                    self._activate(pod, "BackoffComplete")
            if now >= next_flush:
                next_flush = now + FLUSH_PERIOD
                for pod in list(self._unschedulable.pods.values()):
                    if now - pod.timestamp > MAX_UNSCHEDULABLE:
                        self._requeue(pod, Event.FLUSH.value)

    def counts(self) -> dict[str, int]:
        """Pods in each part of the queue."""
        return {
            "active": len(self._active),
            "backoff": len(self._backoff) + len(self._error_backoff),
            "unschedulable": len(self._unschedulable) + len(self._held),
            "gated": len(self._gated),
        }

    def rejections(self) -> Counter[tuple[str, str]]:
        """(plugin, profile) → the unschedulable pods it has rejected."""
        pods = (*self._unschedulable.pods.values(), *self._held.values())
        return Counter((plugin, pod.framework.scheduler_name) for pod in pods for plugin in pod.unschedulable_plugins)

    def waiting(self, uid: str) -> QueuedPod | None:
        """The pod, if it is in the queue (not in flight)."""
        heaps = (self._active.pods, self._backoff.pods, self._error_backoff.pods)
        for part in (*heaps, self._unschedulable.pods, self._gated.pods, self._held):
            if (pod := part.get(uid)) is not None:
                return pod
        return None

    def _record(self, event: Event, old: Any, new: Any) -> None:
        self._event_count += 1
        self._events.append(_Happened(self._event_count, event, old, new))

    def _requeue_if_helpful(self, pod: QueuedPod, happened: _Happened) -> bool:
        helpful = self._is_helpful(pod, happened)
        if helpful:
            self._requeue(pod, happened.event.value)
        return helpful

    def _is_helpful(self, pod: QueuedPod, happened: _Happened) -> bool:
        if happened.event is Event.TARGET_POD_UPDATE and happened.new.uid != pod.info.uid:
            return False
        if not pod.unschedulable_plugins:
            return True
        hints = pod.framework.hints_of(happened.event, pod.unschedulable_plugins)
        return any(_helps(hint, pod.info, happened) for hint in hints)

    def _requeue(self, pod: QueuedPod, event: str) -> None:
        self._unschedulable.remove(pod.info.uid)
        if self._backoff_end(pod) <= self._clock.monotonic():
            self._activate(pod, event)
        else:
            self._backoff.push(pod)
            metrics.INCOMING.labels("backoff", event).inc()
            self._wakeup.set()

    def _activate(self, pod: QueuedPod, event: str) -> None:
        pod.gated = pod.framework.pre_enqueue(pod.info)
        if pod.gated is not None:
            pod.unschedulable_plugins = {pod.gated.plugin}
            self._gated.add(pod)
            metrics.INCOMING.labels("gated", event).inc()
            return
        self._active.push(pod)
        metrics.INCOMING.labels("active", event).inc()
        self._wakeup.set()

    def _backoff_end(self, pod: QueuedPod) -> float:
        """When the back-off of its last attempt is over, by the monotonic clock."""
        if not pod.attempts:
            return pod.timestamp
        seconds = min(self._initial_backoff * 2.0 ** min(pod.attempts - 1, 30), self._max_backoff)
        return pod.timestamp + seconds


def _name_of(thing: Any) -> ObjectName:
    """Of a PodInfo or an object of the API."""
    if isinstance(thing, PodInfo):
        return thing.key
    return _NO_NAME if thing is None else key_of(thing)


def _helps(hint: Callable[[PodInfo, Any, Any], bool], pod: PodInfo, happened: _Happened) -> bool:
    try:
        return hint(pod, happened.old, happened.new)
    except Exception:  # a hint that fails must not leave the pod waiting for ever
        log.exception("a queueing hint failed for %s", pod.key)
        return True
