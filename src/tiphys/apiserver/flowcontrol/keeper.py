"""FlowKeeper: keeps a FlowControl as the objects say, and lends seats every ten seconds."""

from __future__ import annotations

import asyncio
from typing import Final

from tiphys.apiserver.bootstrap.changes import Changes
from tiphys.apiserver.bootstrap.flowcontrol import GROUP
from tiphys.apiserver.flowcontrol.config import ADJUSTMENT, FlowControl
from tiphys.apiserver.registry.strategy import Reader
from tiphys.apiserver.watchcache import WatchCache
from tiphys.base.clock import Clock
from tiphys.base.tasks import Supervised

KINDS: Final = ("prioritylevelconfigurations", "flowschemas")


class FlowKeeper:
    """Two loops; `start` and `stop` them."""

    def __init__(self, control: FlowControl, cache: WatchCache, reader: Reader, clock: Clock) -> None:
        self._control = control
        self._reader = reader
        self._clock = clock
        self._tasks = Supervised(clock)
        kinds = [cache.kind(GROUP, plural) for plural in KINDS]
        self._changes = Changes(kind for kind in kinds if kind is not None)

    async def start(self) -> None:
        """Take what there is, and follow it."""
        await self._tasks.__aenter__()
        self._take()
        self._tasks.spawn(self._follow, name="flow-control", restart=True)
        self._tasks.spawn(self._lend, name="seat-lending", restart=True)

    async def stop(self) -> None:
        """End both."""
        await self._tasks.__aexit__(None, None, None)
        self._changes.close()

    def _take(self) -> None:
        levels, schemas = (list(self._reader.list(GROUP, plural)) for plural in KINDS)
        self._control.configure(levels, schemas)

    async def _follow(self) -> None:
        changed = self._changes.changed
        while True:
            await changed.wait()
            changed.clear()
            # Writes come in bursts (a new cluster's objects, a kubectl apply): one look for all of them.
            await asyncio.sleep(0)
            self._take()

    async def _lend(self) -> None:
        while True:
            await self._clock.sleep(ADJUSTMENT)
            self._control.adjust()
            if self._control.quiescing:
                self._take()  # those that are empty by now are forgotten
