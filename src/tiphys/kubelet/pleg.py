"""Notices what happens to containers: the pod lifecycle event generator.

The runtime's event stream says at once that something happened to a pod; a relist finds what the
stream may have missed while it was broken. Either way all that is passed on is "look at this pod":
the pod's own worker then reads its state, so that no old news can overtake newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tiphys.api.cri import api_pb2 as cri
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.base.tasks import Supervised
from tiphys.kubelet.cri import labels
from tiphys.kubelet.cri.client import CRIClient, CRIError
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.waiting import unless, wait_event

log = get_logger(__name__)

RELIST_WITH_EVENTS: Final = 60.0  # seconds
RELIST_WITHOUT_EVENTS: Final = 1.0
HEALTHY_WITHIN: Final = 180.0  # without a relist for longer the runtime counts as down

# https://kubernetes.io/docs/reference/instrumentation/metrics/
RELIST_DURATION: Final = REGISTRY.histogram(
    "kubelet_pleg_relist_duration_seconds", "[ALPHA] Duration in seconds for relisting pods in PLEG."
)
RELIST_INTERVAL: Final = REGISTRY.histogram(
    "kubelet_pleg_relist_interval_seconds", "[ALPHA] Interval in seconds between relisting in PLEG."
)
LAST_SEEN: Final = REGISTRY.gauge(
    "kubelet_pleg_last_seen_seconds", "[ALPHA] Timestamp in seconds when PLEG was last seen active."
)

Snapshot = dict[PodUID, frozenset[tuple[str, int]]]


def changed_pods(before: Snapshot, after: Snapshot) -> set[PodUID]:
    """The pods whose sandboxes or containers differ between two relists."""
    return {uid for uid in before.keys() | after.keys() if before.get(uid) != after.get(uid)}


class LifecycleEvents:
    """Calls `on_change(uid)` for every pod of which something may have changed."""

    def __init__(self, runtime: CRIClient, clock: Clock, on_change: Callable[[PodUID], None]) -> None:
        self._runtime = runtime
        self._clock = clock
        self._on_change = on_change
        self._seen: Snapshot = {}
        self._streaming = False
        self._relisted_at: float | None = None
        self._asked_at: float | None = None  # when the relist before began, whatever came of it
        self._relist_now = asyncio.Event()
        self._lost = asyncio.Event()

    @property
    def healthy(self) -> bool:
        """Whether the runtime has answered lately."""
        return self._relisted_at is not None and self._clock.monotonic() - self._relisted_at < HEALTHY_WITHIN

    def pods(self) -> set[PodUID]:
        """The pods of which the runtime held something at the last relist."""
        return set(self._seen)

    async def relist(self) -> None:
        """Compare everything with the last time. Raises CRIError."""
        began = self._clock.monotonic()
        if self._asked_at is not None:
            RELIST_INTERVAL.labels().observe(began - self._asked_at)
        self._asked_at = began
        try:
            fresh = await self._runtime.snapshot()
        finally:
            RELIST_DURATION.labels().observe(self._clock.monotonic() - began)
        changed = changed_pods(self._seen, fresh)
        self._seen = fresh
        self._relisted_at = self._clock.monotonic()
        LAST_SEEN.labels().set(self._clock.now().timestamp())
        for uid in changed:
            self._on_change(uid)

    async def run(self) -> None:
        """Follow the runtime until cancelled."""
        async with Supervised(self._clock) as tasks:
            tasks.spawn(self._follow, name="container events", restart=True)
            tasks.spawn(self._relist_forever, name="relist", restart=True)
            await tasks.wait()

    async def _follow(self) -> None:
        while True:
            self._lost.clear()
            try:
                await unless(self._lost, self._listen())
                log.info("the runtime's event stream ended")
            except InterruptedError:
                log.info("the runtime does not answer: its event stream is opened anew")
            except CRIError as error:
                if self._streaming:
                    log.warning("the runtime's event stream ended: %s", error)
            # What happened until the stream is back is found by relisting, which begins now.
            self._streaming = False
            self._relist_now.set()
            await self._clock.sleep(RELIST_WITHOUT_EVENTS)

    async def _listen(self) -> None:
        async for event in self._runtime.events():
            self._streaming = True
            self._note(event)

    def _note(self, event: cri.ContainerEventResponse) -> None:
        sandbox = event.pod_sandbox_status
        uid = sandbox.labels.get(labels.POD_UID) or sandbox.metadata.uid
        if uid:
            self._on_change(PodUID(uid))
        else:
            self._relist_now.set()

    async def _relist_forever(self) -> None:
        while True:
            self._relist_now.clear()
            try:
                await self.relist()
            except CRIError as error:
                log.warning("listing the runtime's pods failed: %s", error)
                # A stream that is left over from a runtime that is gone may never say so itself.
                self._lost.set()
            # Nothing tells us that an idle stream is alive until its first event: relist often until then.
            pause = RELIST_WITH_EVENTS if self._streaming else RELIST_WITHOUT_EVENTS
            await wait_event(self._relist_now, self._clock, pause)
