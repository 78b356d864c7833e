"""The scheduler as a component: its parts wired together, and the loops that drive them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

from tiphys.api.core.v1 import Namespace
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import Client, EventRecorder, Informers
from tiphys.scheduler import metrics
from tiphys.scheduler.cache import Cache
from tiphys.scheduler.config import Profile, SchedulerConfig
from tiphys.scheduler.eventhandlers import EventHandlers, NamespaceLister
from tiphys.scheduler.extender import Extenders
from tiphys.scheduler.framework.runner import Framework
from tiphys.scheduler.handle import Handle
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.nominator import NominatedPods
from tiphys.scheduler.ownership import Ownership
from tiphys.scheduler.plugins import Entry, make_plugins, only_named
from tiphys.scheduler.podstatus import PodStatusWriter
from tiphys.scheduler.queue import SchedulingQueue
from tiphys.scheduler.schedule_one import PodScheduler
from tiphys.scheduler.waiting import WaitingPods

log = get_logger(__name__)

# Decisions in a row before the event loop may read what has happened meanwhile.
TURN_SECONDS: Final = 0.004
METRICS_PERIOD: Final = 1.0


class Scheduler:
    """One scheduler process, of one or several profiles. `run` works until cancelled."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        config: SchedulerConfig | None = None,
        clock: Clock | None = None,
        *,
        random: Random | None = None,
        plugins: Mapping[str, Entry] | None = None,
    ) -> None:
        """`informers` are run by the caller; `plugins` are out-of-tree ones that profiles may enable.

        Raises ValueError for a configuration that names unknown plugins.
        """
        config = config or SchedulerConfig()
        self._clock = clock or SystemClock()
        self._informers = informers
        self.ready = asyncio.Event()  # set when the caches are filled and scheduling begins
        random = random or Random()
        self.nominated = NominatedPods()
        self.waiting = WaitingPods(self._clock)
        self._recorders: dict[str, EventRecorder] = {}
        namespaces = NamespaceLister(informers.of(Namespace).lister)
        ownership = Ownership(informers)
        self.frameworks: dict[str, Framework] = {}
        self._extenders = Extenders(config.extenders)
        for profile in config.profiles:
            profile = _leaving_out(profile, self._extenders.ignored_resources)
            recorder = EventRecorder(client, self._clock, profile.scheduler_name)
            self._recorders[profile.scheduler_name] = recorder
            name, clock = profile.scheduler_name, self._clock
            handle = Handle(
                client,
                informers,
                namespaces,
                self.nominated,
                recorder,
                clock,
                random,
                name,
                self._extenders,
                self._spawn,
            )
            made = make_plugins(profile, handle, ownership.selector, plugins)
            self.frameworks[name] = Framework(name, made, profile.points, only_named(profile))
        self.cache = Cache(NodeTable(namespaces.labels))
        self.nominated.on_change = self.cache.touch
        self.queue = SchedulingQueue(
            self.frameworks,
            self._clock,
            initial_backoff=config.pod_initial_backoff_seconds,
            max_backoff=config.pod_max_backoff_seconds,
        )
        handlers = EventHandlers(informers, self.cache, self.queue, self.nominated, self.frameworks)
        self._tasks: Supervised | None = None
        self._pods = PodScheduler(
            queue=self.queue,
            cache=self.cache,
            nominated=self.nominated,
            waiting=self.waiting,
            pods=handlers.pods.lister,
            status=PodStatusWriter(client, self._clock),
            events=self._recorders,
            spawn=self._spawn,
            clock=self._clock,
            random=random,
            parallelism=config.parallelism,
            extenders=self._extenders,
        )

    async def run(self) -> None:
        """Schedule pods until cancelled; begins when the caches have their first lists."""
        await self._informers.synced()
        async with Supervised(self._clock) as tasks:
            self._tasks = tasks
            try:
                for recorder in self._recorders.values():
                    tasks.spawn(recorder.run, name="scheduler events", restart=True)
                tasks.spawn(self.queue.run, name="scheduler queue", restart=True)
                tasks.spawn(self._report, name="scheduler metrics", restart=True)
                tasks.spawn(self._schedule, name="scheduling", restart=True)
                self.ready.set()
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None
                await self._extenders.close()

    async def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.queue.wait()
            end = loop.time() + TURN_SECONDS
            while decided := self._pods.schedule_one():
                if decided is not True:
                    await decided
                if loop.time() >= end:
                    break
            await asyncio.sleep(0)

    async def _report(self) -> None:
        while True:
            cache = {"nodes": len(self.cache.nodes), "pods": self.cache.pod_count()}
            cache["assumed_pods"] = self.cache.assumed_count()
            metrics.state(self.queue.counts(), self.queue.rejections(), cache)
            await self._clock.sleep(METRICS_PERIOD)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run `work` beside the loop; what it raises is logged and ends only itself."""

        async def guarded() -> None:
            try:
                await work()
            except Exception:
                log.exception("%s failed", name)

        if self._tasks is not None:
            self._tasks.spawn(guarded, name=name)


def _leaving_out(profile: Profile, resources: frozenset[str]) -> Profile:
    """The profile with resources that extenders count left out of NodeResourcesFit."""
    if not resources:
        return profile
    fit = dict(profile.args.get("NodeResourcesFit", {}))
    fit["ignoredResources"] = sorted({*(fit.get("ignoredResources") or ()), *resources})
    return replace(profile, args={**profile.args, "NodeResourcesFit": fit})
