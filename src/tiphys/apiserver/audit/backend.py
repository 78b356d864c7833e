"""Where events go: a sink at once (blocking), or through a buffer that sends them in batches.

A blocking backend answers for each event; a batching one drops what does not fit into its buffer, and counts it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import orjson

from tiphys.apiserver.audit.options import BatchOptions, TruncateOptions
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY

log = get_logger(__name__)

Object = dict[str, Any]
TRUNCATED: Final = "audit.k8s.io/truncated"
STOP_WAIT: Final = 5.0  # seconds that the end of the server waits for the last batches
ERRORS: Final = REGISTRY.counter(
    "apiserver_audit_error_total",
    "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
    ("plugin",),
)


class Sink(Protocol):
    """What events are written to."""

    name: str

    async def write(self, events: Sequence[Object]) -> None:
        """Write them, in order. Raises OSError when it cannot."""

    async def close(self) -> None:
        """No more will come."""


class Backend(Protocol):
    """What takes the events of requests."""

    def emit(self, event: Object) -> None:
        """Take one event; never fails."""

    async def flush(self) -> None:
        """Return when what a request said so far is written, where that is promised. OSError when it was not."""

    async def stop(self) -> None:
        """Write what is left, and close the sink."""


class Truncating:
    """Cuts events that are too large down to size, before the sink writes them."""

    def __init__(self, sink: Sink, options: TruncateOptions) -> None:
        self.name = sink.name
        self._sink = sink
        self._options = options

    async def write(self, events: Sequence[Object]) -> None:
        """See `Sink`; batches that are too large are written in parts."""
        batch: list[Object] = []
        size = 0
        for event in events:
            shown, length = self._cut(event)
            if shown is None:
                ERRORS.labels(self.name).inc()
                log.warning("audit event %s is too large and is dropped", event.get("auditID"))
                continue
            if batch and size + length > self._options.max_batch:
                await self._sink.write(batch)
                batch, size = [], 0
            batch.append(shown)
            size += length
        if batch:
            await self._sink.write(batch)

    def _cut(self, event: Object) -> tuple[Object | None, int]:
        size = len(orjson.dumps(event))
        if size <= self._options.max_event:
            return event, size
        kept = {key: value for key, value in event.items() if key not in ("requestObject", "responseObject")}
        kept["annotations"] = {**event.get("annotations", {}), TRUNCATED: "true"}
        size = len(orjson.dumps(kept))
        return (kept, size) if size <= self._options.max_event else (None, 0)

    async def close(self) -> None:
        """See `Sink`."""
        await self._sink.close()


class Blocking:
    """Events are written before their request goes on."""

    def __init__(self, sink: Sink, *, strict: bool) -> None:
        """`strict`: a request whose arrival cannot be recorded is not served."""
        self._sink = sink
        self._strict = strict
        self._events: list[Object] = []
        self._writing = asyncio.Lock()

    def emit(self, event: Object) -> None:
        """See `Backend`."""
        self._events.append(event)

    async def flush(self) -> None:
        """See `Backend`."""
        async with self._writing:
            events, self._events = self._events, []
            if not events:
                return
            try:
                await self._sink.write(events)
            except OSError as error:
                ERRORS.labels(self._sink.name).inc(len(events))
                log.error(
                    "Error in audit plugin '%s' affecting %d audit events: %s", self._sink.name, len(events), error
                )
                if self._strict:
                    raise

    async def stop(self) -> None:
        """See `Backend`."""
        try:
            await self.flush()
        except OSError:
            pass  # it has been logged
        await self._sink.close()


class Batching:
    """Events wait in a buffer until a batch is full or old enough."""

    def __init__(self, sink: Sink, options: BatchOptions, clock: Clock) -> None:
        self._sink = sink
        self._options = options
        self._clock = clock
        self._events: deque[Object] = deque()
        self._full = asyncio.Event()
        self._any = asyncio.Event()
        self._tokens = float(options.burst)
        self._counted = clock.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name=f"audit-{self._sink.name}")

    def emit(self, event: Object) -> None:
        """See `Backend`."""
        if len(self._events) >= self._options.buffer_size:
            ERRORS.labels(self._sink.name).inc()
            return
        self._events.append(event)
        self._any.set()
        if len(self._events) >= self._options.max_size:
            self._full.set()

    async def flush(self) -> None:
        """See `Backend`: nothing is promised."""

    async def stop(self) -> None:
        """See `Backend`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_WAIT):
                while self._events:
                    await self._send()
        except TimeoutError:
            ERRORS.labels(self._sink.name).inc(len(self._events))
            log.error("%d audit events could not be sent before the end", len(self._events))
        await self._sink.close()

    async def _run(self) -> None:
        while True:
            await self._any.wait()
            if self._options.max_wait > 0 and not self._full.is_set():
                try:
                    async with asyncio.timeout(self._options.max_wait):
                        await self._full.wait()
                except TimeoutError:
                    pass
            await self._throttle()
            await self._send()

    async def _throttle(self) -> None:
        options = self._options
        if not options.throttle:
            return
        now = self._clock.monotonic()
        self._tokens = min(float(options.burst), self._tokens + (now - self._counted) * options.qps)
        self._counted = now
        self._tokens -= 1
        if self._tokens < 0:
            await self._clock.sleep(-self._tokens / options.qps)

    async def _send(self) -> None:
        count = min(len(self._events), self._options.max_size)
        batch = [self._events.popleft() for _ in range(count)]
        if not self._events:
            self._any.clear()
        if len(self._events) < self._options.max_size:
            self._full.clear()
        try:
            await self._sink.write(batch)
        except asyncio.CancelledError:
            self._events.extendleft(reversed(batch))  # better twice than never
            raise
        except OSError as error:
            ERRORS.labels(self._sink.name).inc(len(batch))
            log.error("Error in audit plugin '%s' affecting %d audit events: %s", self._sink.name, len(batch), error)
