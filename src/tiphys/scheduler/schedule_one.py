"""How one pod is scheduled, top-down.

schedule_one:   pop -> scheduling cycle (decide; no awaiting, so that pods see each other's decisions;
                         |               where HTTP extenders concern themselves with the pod they are asked before)
                         | a node                                | none
                         v                                       v
                      assume it there                        make room, if possible (preemption)
                         |                                       |
                binding cycle, beside others:              say why: event, PodScheduled condition
                Permit, PreBind, Bind, PostBind            wait in the queue for something to change
                         | any failure
                         v
                take it back, try again later
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from tiphys.api.core.v1 import Pod
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import NORMAL, WARNING, ApiConnectionError, Lister
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.scheduler import metrics
from tiphys.scheduler.beside import Beside
from tiphys.scheduler.cache import Cache
from tiphys.scheduler.extender import ExtenderError, Extenders, Opinion
from tiphys.scheduler.framework.diagnosis import Unschedulable
from tiphys.scheduler.framework.interface import CycleState, PostFilterResult, Refusal
from tiphys.scheduler.framework.runner import Framework, best_row
from tiphys.scheduler.handle import Events, Spawn
from tiphys.scheduler.nodetable import Mask
from tiphys.scheduler.nominator import NominatedPods
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.podstatus import REASON_ERROR, REASON_UNSCHEDULABLE, PodStatusWriter
from tiphys.scheduler.queue import QueuedPod, SchedulingQueue
from tiphys.scheduler.waiting import WaitingPods

log = get_logger(__name__)

OTHER_WRITES: Final = 32  # at once, besides bindings
SAMPLED: Final = 0.1  # share of the cycles in which each plugin's time is measured


@dataclass(frozen=True, slots=True)
class Decision:
    """A pod and the node it goes to. `started`: its attempt, by the monotonic clock."""

    queued: QueuedPod
    node: str
    state: CycleState
    started: float


class PodScheduler:
    """Takes pods from the queue one at a time."""

    def __init__(
        self,
        *,
        queue: SchedulingQueue,
        cache: Cache,
        nominated: NominatedPods,
        waiting: WaitingPods,
        pods: Lister[Pod],
        status: PodStatusWriter,
        events: Mapping[str, Events],
        spawn: Spawn,
        clock: Clock,
        random: Random,
        parallelism: int,
        extenders: Extenders | None = None,
    ) -> None:
        self._extenders = extenders or Extenders()
        self._queue = queue
        self._cache = cache
        self._nominated = nominated
        self._waiting = waiting
        self._pods = pods
        self._status = status
        self._events = events
        self._spawn = spawn
        self._clock = clock
        self._random = random
        self._beside = Beside(cache.nodes, nominated)
        self._binding_slots = asyncio.Semaphore(parallelism)
        # A crowd of pods that fit nowhere would otherwise open a connection for each of its writes.
        self._other_slots = asyncio.Semaphore(OTHER_WRITES)

    def schedule_one(self) -> bool | Coroutine[Any, Any, None]:
        """Decide the next pod; False when none waits. A coroutine to await before the next if extenders decide."""
        queued = self._queue.pop()
        if queued is None:
            return False
        if self._is_settled(queued.info):
            self._queue.done(queued.info.uid)
            return True
        if self._extenders.concern(queued.info):
            return self._ask_and_decide(queued)
        return self._decide(queued, None, self._clock.monotonic()) or True

    async def _ask_and_decide(self, queued: QueuedPod) -> None:
        """Ask the extenders about the nodes the pod fits on; then decide with their opinion on what is there now."""
        pod, nodes = queued.info, self._cache.nodes
        started = self._clock.monotonic()
        opinion = Opinion(set())  # fits it nowhere now, then also on no node that comes meanwhile: none was asked about
        try:
            feasible = queued.framework.find_feasible(CycleState(), pod, nodes)
            if not isinstance(feasible, Unschedulable):
                names = [nodes.name_of(int(row)) for row in np.flatnonzero(feasible)]
                opinion = await self._extenders.opinion(pod, nodes, names)
        except Exception as error:  # an extender's failure, or a plugin's bug, costs one attempt of one pod
            if not isinstance(error, ExtenderError):
                log.exception("scheduling %s failed", pod.key)
            self._failed(queued, f"running the scheduling cycle: {error}")
            metrics.attempt(queued.framework.scheduler_name, "error", self._clock.monotonic() - started)
            return
        if self._still_waiting(queued) is not None and not self._is_settled(queued.info):
            more = self._decide(queued, opinion, started)
            if more is not None:
                await more
        else:
            self._queue.done(pod.uid)

    def _decide(self, queued: QueuedPod, opinion: Opinion | None, started: float) -> Coroutine[Any, Any, None] | None:
        """One scheduling cycle and what follows from it; what is left to do where others are asked."""
        pod, framework = queued.info, queued.framework
        state = CycleState(sampled=self._random.random() < SAMPLED)
        try:
            outcome = self.scheduling_cycle(framework, state, pod, opinion)
        except Exception as error:  # a plugin's bug costs one attempt of one pod
            log.exception("scheduling %s failed", pod.key)
            self._failed(queued, f"running the scheduling cycle: {error}")
            metrics.attempt(framework.scheduler_name, "error", self._clock.monotonic() - started)
            return None
        if isinstance(outcome, str):
            decision = Decision(queued, outcome, state, started)
            self._spawn(lambda: self.binding_cycle(decision), f"bind {pod.key}")
            return None
        room = self._make_room(framework, state, pod, outcome)
        if room is not None and room.ask is not None:
            return self._ask_for_room(queued, outcome, room.ask, started)
        self._unschedulable(queued, outcome, room)
        metrics.attempt(framework.scheduler_name, "unschedulable", self._clock.monotonic() - started)
        return None

    async def _ask_for_room(
        self,
        queued: QueuedPod,
        found: Unschedulable,
        ask: Callable[[], Awaitable[PostFilterResult]],
        started: float,
    ) -> None:
        """The pod fits nowhere, and others have a say in the room that is made for it."""
        result = await ask()
        found.post_filter_message = result.message
        self._unschedulable(queued, found, result)
        metrics.attempt(queued.framework.scheduler_name, "unschedulable", self._clock.monotonic() - started)

    # The scheduling cycle

    def scheduling_cycle(
        self, framework: Framework, state: CycleState, pod: PodInfo, opinion: Opinion | None = None
    ) -> str | Unschedulable:
        """Find the best node and assume the pod there; the node's name, or why there is none."""
        nodes, began = self._cache.nodes, perf_counter()
        if not len(nodes):
            return Unschedulable(0)
        feasible = framework.find_feasible(state, pod, nodes)
        if not isinstance(feasible, Unschedulable) and self._nominated:
            promised = self._beside.promised(framework, pod, feasible) if opinion is None else None
            feasible = self._beside.narrow(framework, pod, feasible) if promised is None else promised
        if not isinstance(feasible, Unschedulable) and opinion is not None:
            feasible = opinion.narrow(nodes, feasible)
            if isinstance(feasible, Unschedulable):
                # What an extender waits for nobody here knows: any event may be it.
                feasible.plugins = {plugin.name for plugin in framework.plugins}
        if isinstance(feasible, Unschedulable):
            return feasible
        row = self._choose(framework, state, pod, feasible, opinion)
        metrics.ALGORITHM_SECONDS.labels().observe(perf_counter() - began)
        node = nodes.name_of(row)
        self._cache.assume(pod, node)
        refusal = framework.reserve(state, pod, node)
        if refusal is None:
            permitted = framework.permit(state, pod, node)
            if not isinstance(permitted, Refusal):
                if permitted:
                    self._waiting.add(pod, permitted)
                self._nominated.forget(pod.uid)
                return node
            framework.unreserve(state, pod, node)
            refusal = permitted
        self._cache.forget(pod)
        return Unschedulable(len(nodes), refusal=refusal, plugins={refusal.plugin}, rows=nodes.alive.copy())

    def _choose(
        self, framework: Framework, state: CycleState, pod: PodInfo, feasible: Mask, opinion: Opinion | None
    ) -> int:
        """The row for the pod: the one it was promised, if that is still possible, or the best."""
        nodes = self._cache.nodes
        promised = nodes.row_of.get(self._nominated.node_of(pod.uid) or "")
        if promised is not None and feasible[promised]:
            return promised
        scores = framework.score(state, pod, nodes, feasible) if np.count_nonzero(feasible) > 1 else None
        if opinion is not None:
            scores = opinion.add_to(nodes, scores)
        return best_row(scores, feasible, self._random)

    def _make_room(
        self, framework: Framework, state: CycleState, pod: PodInfo, found: Unschedulable
    ) -> PostFilterResult | None:
        """Let PostFilter plugins try; None when there was nothing to try on."""
        if not found.node_count:
            return None
        result = framework.post_filter(state, pod, self._cache.nodes, found)
        found.post_filter_message = result.message
        return result

    # The binding cycle

    async def binding_cycle(self, decision: Decision) -> None:
        """Carry a decision out; on any failure take it back."""
        at_work = metrics.AT_WORK.labels("binding")
        at_work.inc()
        try:
            result = await self._bind(decision)
        finally:
            at_work.dec()
        if result:
            name = decision.queued.framework.scheduler_name
            metrics.attempt(name, result, self._clock.monotonic() - decision.started)

    async def _bind(self, decision: Decision) -> str:
        """The result, as attempts are counted; "" when it is nobody's."""
        pod, framework, state, node = (
            decision.queued.info,
            decision.queued.framework,
            decision.state,
            decision.node,
        )
        try:
            if self._waiting.is_waiting(pod.uid) or framework.pre_bind_pre_flight(state, pod, node):
                await self._expect(decision)
            refusal = await self._permission(pod)
            if refusal is None:
                # Outside the slots: it may wait long for volumes and devices, which are nobody else's concern.
                refusal = await framework.pre_bind(state, pod, node)
            if refusal is None:
                async with self._binding_slots:
                    if not await self._extenders.bind(pod, node):
                        await framework.bind(state, pod, node)
        except NotFoundError as error:
            # The pod itself, mostly, deleted meanwhile; it may be a claim it wants, and then it is tried again.
            self._take_back(decision)
            self._failed(decision.queued, f"binding rejected: {error}")
            return "error" if self._still_there(pod) else ""
        except (StatusError, ApiConnectionError, RuntimeError) as error:
            log.warning("binding %s to %s failed: %s", pod.key, node, error)
            self._take_back(decision)
            self._failed(decision.queued, f"binding rejected: {error}")
            return "error"
        except BaseException:
            self._take_back(decision)
            self._queue.add_after_error(decision.queued)
            raise
        if refusal is not None:
            self._take_back(decision)
            found = Unschedulable(len(self._cache.nodes), refusal=refusal, plugins={refusal.plugin})
            self._unschedulable(decision.queued, found, None)
            return "unschedulable"
        self._queue.done(pod.uid)
        events = self._events[framework.scheduler_name]
        events.event(pod.pod, NORMAL, "Scheduled", f"Successfully assigned {pod.key} to {node}")
        first = decision.queued.first_attempt
        metrics.scheduled(
            decision.queued.attempts, self._clock.monotonic() - (decision.started if first is None else first)
        )
        framework.post_bind(state, pod, node)
        return "scheduled"

    async def _expect(self, decision: Decision) -> None:
        """The binding may take long: meanwhile the pod's status says where it goes. The binding takes that away."""
        queued, node = decision.queued, decision.node
        said = queued.info.pod.status.nominated_node_name == node
        if not said:
            async with self._other_slots:
                said = await self._status.expected(queued.info.pod, node)
        if said:
            queued.expected = node

    async def _permission(self, pod: PodInfo) -> Refusal | None:
        """Wait until the plugins that hold the pod back let it go; a refusal when they do not."""
        if not self._waiting.is_waiting(pod.uid):
            return None
        began = self._clock.monotonic()
        refusal = await self._waiting.wait(pod)
        result = "allowed" if refusal is None else "rejected"
        metrics.PERMIT_SECONDS.labels(result).observe(self._clock.monotonic() - began)
        return refusal

    def _take_back(self, decision: Decision) -> None:
        pod = decision.queued.info
        self._waiting.remove(pod.uid)
        decision.queued.framework.unreserve(decision.state, pod, decision.node)
        self._cache.forget(pod)

    # Failure

    def _unschedulable(self, queued: QueuedPod, found: Unschedulable, result: PostFilterResult | None) -> None:
        """The pod fits nowhere now: say why, and wait for what the plugins that rejected it wait for."""
        current = self._still_waiting(queued)
        if current is None:
            return
        nominated = result.nominated if result is not None else None
        if result is not None and nominated is not None:
            self._nominated.nominate(current, nominated, result.victims)
        queued.unschedulable_plugins = set(found.plugins)
        act = result.act if result is not None else None
        if act is None:
            self._queue.add_unschedulable(queued)
        else:
            self._queue.hold(queued)
            self._spawn(lambda: self._act(queued, act), f"make room for {current.key}")
        self._report(queued, REASON_UNSCHEDULABLE, found.message(), nominated)

    def _failed(self, queued: QueuedPod, message: str) -> None:
        """An error, of the API or a plugin: try again after a back-off."""
        if self._still_waiting(queued) is None:
            return
        self._queue.add_after_error(queued)
        self._report(queued, REASON_ERROR, message, None)

    def _report(self, queued: QueuedPod, reason: str, message: str, nominated: str | None) -> None:
        pod = queued.info.pod
        if queued.expected:
            # The cache may not show yet what was written; it is no longer true, unless the pod is promised room there.
            pod = replace(pod, status=replace(pod.status, nominated_node_name=queued.expected))
            nominated, queued.expected = nominated or "", ""
        self._events[queued.framework.scheduler_name].event(pod, WARNING, "FailedScheduling", message)

        async def write() -> None:
            async with self._other_slots:
                await self._status.not_scheduled(pod, reason, message, nominated)

        self._spawn(write, f"status of {queued.info.key}")

    async def _act(self, queued: QueuedPod, act: Callable[[], Awaitable[bool]]) -> None:
        """Make room; where that fails the promise is void and the pod is tried again."""
        uid, now = queued.info.uid, True
        try:
            async with self._other_slots:
                now = await act()
        except (StatusError, ApiConnectionError) as error:
            log.warning("making room for %s failed: %s", queued.info.key, error)
            self._nominated.forget(uid)
        finally:
            self._queue.release(uid, now=now)

    def _still_waiting(self, queued: QueuedPod) -> PodInfo | None:
        """The pod as the cache has it now; None, and done with, when it is gone or has a node."""
        current = self._pods.get(queued.info.key)
        if current is None or current.metadata.uid != queued.info.uid or current.spec.node_name:
            self._nominated.forget(queued.info.uid)
            self._queue.done(queued.info.uid)
            return None
        if current is not queued.info.pod:
            queued.info = PodInfo(current)
        return queued.info

    def _still_there(self, pod: PodInfo) -> bool:
        current = self._pods.get(pod.key)
        return current is not None and current.metadata.uid == pod.uid

    def _is_settled(self, pod: PodInfo) -> bool:
        """Nothing to decide: the pod is about to go, or placed already."""
        return pod.terminating or self._cache.is_assumed(pod.uid)
