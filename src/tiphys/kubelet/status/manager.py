"""Writes pod statuses to the API: at once, one write in flight a pod, always the newest.

A status that comes while a write is under way is sent when it returns, so that a burst of changes
costs two writes and the last one never waits for a timer. What was acknowledged is kept, so that
only differences are sent and an unchanged status costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from msgspec.structs import replace

from tiphys.api.core.v1 import Pod, PodStatus
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import Client, PatchType
from tiphys.kubelet.pod import PodUID, key_of, uid_of
from tiphys.kubelet.status.conditions import DISRUPTION_TARGET, OWNED, PASSING
from tiphys.kubelet.status.wire import Json, status_patch, wire_status
from tiphys.machinery.errors import ConflictError, NotFoundError, StatusError

log = get_logger(__name__)

FIRST_RETRY: Final = 0.2  # seconds
LONGEST_RETRY: Final = 10.0


class Spawn(Protocol):
    """Starts a supervised task."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> asyncio.Task[None]: ...


@dataclass(slots=True)
class _Entry:
    wanted: PodStatus
    wanted_json: Json
    pod: Pod | None = None  # as the API has it; None for a static pod without its mirror
    acknowledged: Json = field(default_factory=dict)
    version: int = 0  # resourceVersion of the last acknowledged write
    task: asyncio.Task[None] | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class StatusManager:
    """The newest status of every pod on the node, and its way to the API.

    Pods are named by the uid the kubelet works with; a static pod's status is written to its mirror.
    """

    def __init__(self, client: Client, clock: Clock, spawn: Spawn) -> None:
        self._client = client
        self._clock = clock
        self._spawn = spawn
        self._entries: dict[PodUID, _Entry] = {}

    def with_status(self, pod: Pod) -> Pod:
        """The pod with its newest status, written or not; conditions of others are the API's."""
        entry = self._entries.get(uid_of(pod))
        if entry is None:
            return pod
        api = {condition.type: condition for condition in (entry.pod or pod).status.conditions}
        mine = tuple(c if c.type in _OURS else api.get(c.type, c) for c in entry.wanted.conditions)
        known = {condition.type for condition in mine}
        others = tuple(condition for kind, condition in api.items() if kind not in known | PASSING)
        return replace(pod, status=replace(entry.wanted, conditions=(*mine, *others)))

    def set(self, uid: PodUID, api_pod: Pod | None, status: PodStatus) -> None:
        """Make `status` the one to be known; returns at once."""
        # Others' conditions are not sent back: that would undo what they have said since they were read.
        mine = tuple(one for one in status.conditions if one.type in _OURS or one.type == "PodScheduled")
        document = wire_status(replace(status, conditions=mine))
        entry = self._entries.get(uid)
        if entry is None:
            entry = self._entries[uid] = _Entry(status, document)
        entry.wanted, entry.wanted_json = status, document
        self._adopt(uid, entry, api_pod)

    def observe(self, uid: PodUID, api_pod: Pod) -> None:
        """The API's view has changed: what somebody else wrote over ours is put right."""
        entry = self._entries.get(uid)
        if entry is not None:
            self._adopt(uid, entry, api_pod)

    async def flushed(self, uid: PodUID) -> None:
        """Wait until the newest status of the pod is acknowledged, or nobody is there to take it."""
        entry = self._entries.get(uid)
        if entry is not None and entry.task is not None:
            await entry.idle.wait()

    def forget(self, uid: PodUID) -> None:
        entry = self._entries.pop(uid, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()
            entry.idle.set()

    def _adopt(self, uid: PodUID, entry: _Entry, api_pod: Pod | None) -> None:
        if api_pod is not None:
            other = entry.pod is None or entry.pod.metadata.uid != api_pod.metadata.uid
            version = api_pod.metadata.resource_version
            busy = entry.task is not None and not entry.task.done()
            # A view older than our last write says nothing about what is there now.
            if other or (not busy and version.isdigit() and int(version) >= entry.version):
                entry.acknowledged = wire_status(api_pod.status)
            entry.pod = api_pod
        self._start(uid, entry)

    def _start(self, uid: PodUID, entry: _Entry) -> None:
        if entry.task is not None and not entry.task.done():
            return
        if entry.pod is None or not status_patch(entry.acknowledged, entry.wanted_json):
            entry.idle.set()
            return
        entry.idle.clear()
        entry.task = self._spawn(lambda: self._write(entry), name=f"status {entry.pod.metadata.name}")

    async def _write(self, entry: _Entry) -> None:
        delay = FIRST_RETRY
        while entry.pod is not None and (patch := status_patch(entry.acknowledged, entry.wanted_json)):
            sent, pod = entry.wanted_json, entry.pod
            try:
                answer = await self._client.patch(
                    Pod,
                    key_of(pod),
                    {"metadata": {"uid": pod.metadata.uid}, "status": patch},
                    patch_type=PatchType.STRATEGIC,
                    subresource="status",
                )
            except (NotFoundError, ConflictError) as error:
                # Gone, or another pod of this name: there is nobody left to tell.
                log.debug("status of pod %s not written: %s", key_of(pod), error)
                break
            except (StatusError, OSError) as error:
                log.warning("writing the status of pod %s failed: %s", key_of(pod), error)
                await self._clock.sleep(delay)
                delay = min(delay * 2, LONGEST_RETRY)
                continue
            delay = FIRST_RETRY
            entry.acknowledged = sent
            if answer.metadata.resource_version.isdigit():
                entry.version = int(answer.metadata.resource_version)
        entry.idle.set()


_OURS: Final = OWNED | PASSING | {DISRUPTION_TARGET}
