"""Events: what happened to an object, for people to read. Recording never waits and never fails.

    event() ─→ pending:  pod a: [Scheduled, …]  ─┐
                         pod b: [Scheduled]      ├─→ up to WRITERS at once, one at a time for an object
                         pod c: [Scheduled]     ─┘

The events of one object are written in the order they were recorded; those of different objects
overtake each other, so that a thousand pods scheduled at once do not wait in one row.

Three things keep a busy cluster's events few, in this order (the rules and numbers of
https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ as every client has them):

1. aggregate: more than ten different messages of one reason about one object within ten minutes
   become one event, "(combined from similar events): …";
2. spam filter: one source may say 25 things about one object at once, then one every five minutes;
3. count: a repetition raises the count of the event there is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, TypeVar

from msgspec.structs import replace

from tiphys.api.core.v1 import Event, EventSource, ObjectReference
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.base.tasks import Supervised
from tiphys.client.endpoint import Object
from tiphys.client.rest import Client
from tiphys.client.results import PatchType
from tiphys.client.transport import ApiConnectionError
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

NORMAL: Final = "Normal"
WARNING: Final = "Warning"

MAX_SIMILAR: Final = 10
SIMILAR_SECONDS: Final = 600.0
SPAM_BURST: Final = 25
SPAM_REFILL_SECONDS: Final = 300.0
CACHE_SIZE: Final = 4096
# Events that wait to be written; more are dropped, which is counted and said.
QUEUE_SIZE: Final = 100_000
# At once. Few: an event tells what was done, and where the server is busy it is not to take the place of the doing.
WRITERS: Final = 4
DROPS_SAID_SECONDS: Final = 60.0
DROPPED: Final = REGISTRY.counter(
    "tiphys_events_dropped_total", "Events that were dropped because too many waited to be written.", ["component"]
)
WRITE_TRIES: Final = 12
WRITE_RETRY_SECONDS: Final = 10.0

K = TypeVar("K")
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """The most recently used entries."""

    def __init__(self) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)


@dataclass(slots=True)
class _Similar:
    last: float
    messages: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


@dataclass(frozen=True, slots=True)
class _Counted:
    name: str
    count: int
    first: datetime


class Correlator:
    """Decides what becomes of an event: dropped, counted into an earlier one, or new. Pure but for its memory."""

    def __init__(self) -> None:
        self._similar: _Recent[tuple[str, ...], _Similar] = _Recent()
        self._buckets: _Recent[tuple[str, ...], _Bucket] = _Recent()
        self._counted: _Recent[tuple[str, ...], _Counted] = _Recent()

    def correlate(self, event: Event, now: float) -> Event | None:
        """The event to write; None to drop it. A count above one means it was written before under this name."""
        event, key = self._aggregate(event, now)
        if not self._allowed(event, now):
            return None
        known = self._counted.get(key)
        if known is not None:
            metadata = replace(event.metadata, name=known.name)
            event = replace(event, metadata=metadata, count=known.count + 1, first_timestamp=known.first)
        assert event.first_timestamp is not None
        self._counted.put(key, _Counted(event.metadata.name, event.count or 1, event.first_timestamp))
        return event

    def _aggregate(self, event: Event, now: float) -> tuple[Event, tuple[str, ...]]:
        group = (*_about(event), event.type, event.reason)
        similar = self._similar.get(group)
        if similar is None or now - similar.last > SIMILAR_SECONDS:
            similar = _Similar(now)
            self._similar.put(group, similar)
        similar.last = now
        similar.messages.add(event.message)
        if len(similar.messages) < MAX_SIMILAR:
            return event, (*group, event.message)
        similar.messages.pop()
        return replace(event, message=f"(combined from similar events): {event.message}"), group

    def _allowed(self, event: Event, now: float) -> bool:
        key = _about(event)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = _Bucket(SPAM_BURST, now)
            self._buckets.put(key, bucket)
        bucket.tokens = min(SPAM_BURST, bucket.tokens + (now - bucket.filled_at) / SPAM_REFILL_SECONDS)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


class EventRecorder:
    """Writes core/v1 Events for one component; `run` does the writing."""

    def __init__(
        self, client: Client, clock: Clock, component: str, host: str = "", *, queue_size: int = QUEUE_SIZE
    ) -> None:
        self._client = client
        self._clock = clock
        self._source = EventSource(component=component, host=host)
        self._correlator = Correlator()
        self._queue_size = queue_size
        self._waiting = 0
        self._pending: dict[tuple[str, ...], deque[Event]] = {}
        self._ready: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()  # keys of `_pending` nobody writes yet
        self._dropped = 0  # since it was last said
        self._drops_said_at = -DROPS_SAID_SECONDS
        self._last_suffix = 0

    def event(
        self, obj: Object | ObjectReference, type_: str, reason: str, message: str, *, field_path: str = ""
    ) -> None:
        """Note that something happened to `obj`: `type_` is Normal or Warning, `reason` one CamelCase word.

        When `queue_size` events wait to be written, this one is dropped, counted, and said in the log.
        """
        regarding = obj if isinstance(obj, ObjectReference) else reference_to(obj, field_path)
        now = self._clock.now()
        second = now.replace(microsecond=0)
        event = Event(
            metadata=ObjectMeta(
                name=f"{regarding.name}.{self._suffix(now):x}", namespace=regarding.namespace or "default"
            ),
            involved_object=regarding,
            type=type_,
            reason=reason,
            message=message[:1024],
            source=self._source,
            count=1,
            first_timestamp=second,
            last_timestamp=second,
            reporting_component=self._source.component,
            reporting_instance=self._source.host,
        )
        if self._waiting >= self._queue_size:
            self._drop(event)
            return
        self._waiting += 1
        key = _about(event)
        if key in self._pending:
            self._pending[key].append(event)
        else:
            self._pending[key] = deque((event,))
            self._ready.put_nowait(key)

    def _drop(self, event: Event) -> None:
        DROPPED.labels(self._source.component).inc()
        self._dropped += 1
        now = self._clock.monotonic()
        if now - self._drops_said_at >= DROPS_SAID_SECONDS:
            log.warning("dropped %d events, the last %s about %s", self._dropped, event.reason, event.metadata.name)
            self._dropped, self._drops_said_at = 0, now

    async def run(self) -> None:
        """Write events until cancelled; begun again, it goes on where it was."""
        self._ready = asyncio.Queue()
        for key in self._pending:
            self._ready.put_nowait(key)
        free = asyncio.Semaphore(WRITERS)

        async with Supervised(self._clock) as tasks:
            while True:
                key = await self._ready.get()
                await free.acquire()
                tasks.spawn(partial(self._write_all, key, free), name="write events")

    async def _write_all(self, key: tuple[str, ...], free: asyncio.Semaphore) -> None:
        """Write what is there to say about one object, and what is added meanwhile."""
        events = self._pending[key]
        try:
            while events:
                event = self._correlator.correlate(events[0], self._clock.monotonic())
                try:
                    if event is not None:
                        await self._write(event)
                except Exception:
                    # Surprising, but no reason to say nothing more about the object.
                    log.exception("writing event %s failed", events[0].reason)
                events.popleft()
                self._waiting -= 1
            del self._pending[key]
        finally:
            free.release()

    async def _write(self, event: Event) -> None:
        for _ in range(WRITE_TRIES):
            try:
                if (event.count or 0) > 1:
                    await self._repeat(event)
                else:
                    await self._client.create(event)
                return
            except AlreadyExistsError:
                return
            except StatusError as error:
                # Forbidden where the namespace is going away, invalid, …: another try changes nothing.
                log.debug("event %s about %s: %s", event.reason, event.involved_object.name, error)
                return
            except ApiConnectionError:
                await self._clock.sleep(WRITE_RETRY_SECONDS)

    async def _repeat(self, event: Event) -> None:
        key = ObjectName(event.metadata.namespace, event.metadata.name)
        change: dict[str, Any] = {"count": event.count, "message": event.message, "lastTimestamp": event.last_timestamp}
        try:
            await self._client.patch(Event, key, change, patch_type=PatchType.STRATEGIC)
        except NotFoundError:
            # Events expire after an hour: this one begins again.
            await self._client.create(event)

    def _suffix(self, now: datetime) -> int:
        """A number for the name: nanoseconds since 1970, made to grow always."""
        self._last_suffix = max(self._last_suffix + 1, int(now.timestamp() * 1_000_000) * 1000)
        return self._last_suffix


def reference_to(obj: Object, field_path: str = "") -> ObjectReference:
    """The reference an event carries to `obj`, an instance of a generated kind."""
    return ObjectReference(
        api_version=getattr(obj, "API_VERSION", ""),
        kind=getattr(obj, "KIND", ""),
        namespace=obj.metadata.namespace,
        name=obj.metadata.name,
        uid=obj.metadata.uid,
        resource_version=obj.metadata.resource_version,
        field_path=field_path,
    )


def _about(event: Event) -> tuple[str, ...]:
    source, involved = event.source, event.involved_object
    return (
        source.component if source else "",
        source.host if source else "",
        involved.kind,
        involved.namespace,
        involved.name,
        involved.uid,
        involved.api_version,
    )
