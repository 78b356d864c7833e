"""The frame of a controller: a queue of keys, workers, and one `sync` that makes a key right.

Level-driven: `sync` reads caches and the clock, decides, writes. Its outcome is DONE or
`RequeueAfter`; an exception means the key is tried again with back-off, which is how conflicts and
failing requests are answered everywhere.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client.cache import key_of
from tiphys.client.endpoint import Object
from tiphys.client.informer import SharedInformer
from tiphys.client.transport import ApiConnectionError
from tiphys.client.workqueue import WorkQueue
from tiphys.machinery.errors import ConflictError, NotFoundError, StatusError

log = get_logger(__name__)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Result:
    """What `sync` says of its key; `after` None: nothing more to do until something changes."""

    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class RequeueAfter(Result):
    """Look at the key again after this time."""


DONE: Final = Result()


class Controller(ABC, Generic[K]):
    """A supervised set of workers over one queue. Subclasses give `name` and `sync`."""

    name: str
    workers: int = 5

    def __init__(self, clock: Clock, informers: Iterable[SharedInformer[Any]] = ()) -> None:
        self.clock = clock
        self.queue: WorkQueue[K] = WorkQueue(clock, self.name)
        self._informers = tuple(informers)

    @abstractmethod
    async def sync(self, key: K) -> Result:
        """Make one key right; never runs twice at a time for a key."""

    def start(self, tasks: Supervised) -> None:
        """Spawn further loops; called once the informers have their first list."""

    async def run(self, workers: int = 0) -> None:
        """Work until cancelled."""
        for informer in self._informers:
            await informer.synced()
        async with Supervised(self.clock) as tasks:
            tasks.spawn(self.queue.run, name=f"{self.name} delays", restart=True)
            for number in range(workers or self.workers):
                tasks.spawn(self._work, name=f"{self.name} worker {number}", restart=True)
            self.start(tasks)
            await asyncio.get_running_loop().create_future()

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self.process(key)
            finally:
                self.queue.done(key)

    async def process(self, key: K) -> None:
        """Sync one key taken from the queue and decide when it comes back."""
        try:
            result = await self.sync(key)
        except (ConflictError, NotFoundError, ApiConnectionError) as error:
            # All are part of life: the cache will catch up, the server come back.
            log.debug("%s: %s: %s", self.name, key, error)
            self.queue.add_rate_limited(key)
        except StatusError as error:
            log.warning("%s: %s: %s", self.name, key, error)
            self.queue.add_rate_limited(key)
        except Exception:
            log.exception("%s: syncing %s failed", self.name, key)
            self.queue.add_rate_limited(key)
        else:
            self.queue.forget(key)
            if result.after is not None:
                self.queue.add_after(key, result.after.total_seconds())


def enqueue(queue: WorkQueue[Any], informer: SharedInformer[Any]) -> None:
    """Queue the name of every object of `informer` that changes."""

    def changed(obj: Object) -> None:
        queue.add(key_of(obj))

    informer.add_handler(changed, lambda _, new: changed(new), changed)
