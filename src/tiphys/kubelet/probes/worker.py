"""One probe of one container: when to ask, and what a run of answers means.

```
 container starts ─ initialDelay ─► ask ─ period ─► ask ─ period ─► …
      failureThreshold failures in a row: failed     successThreshold successes in a row: succeeded
```
Liveness and readiness wait until the startup probe has succeeded; a failed liveness or startup
probe stays quiet until the container has been replaced.
https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Final

from tiphys.api.core.v1 import Pod, Probe
from tiphys.base.clock import Clock
from tiphys.kubelet.cri.state import RuntimeContainer
from tiphys.kubelet.pod import AnyContainer
from tiphys.kubelet.probes.outcome import Outcome, Verdict
from tiphys.kubelet.waiting import wait_event

DEFAULT_PERIOD: Final = 10
DEFAULT_FAILURES: Final = 3


class ProbeType(Enum):
    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"


@dataclass(slots=True)
class Streak:
    """Counts answers of one kind in a row; pure but for its memory."""

    success_threshold: int
    failure_threshold: int
    last: Verdict | None = None
    count: int = 0

    def add(self, verdict: Verdict) -> bool | None:
        """True or False when the answer settles the result, None while it does not. Errors are passed over."""
        if verdict is Verdict.ERROR:
            return None
        self.count = self.count + 1 if verdict is self.last else 1
        self.last = verdict
        if verdict is Verdict.SUCCESS:
            return True if self.count >= self.success_threshold else None
        return False if self.count >= self.failure_threshold else None


@dataclass(slots=True)
class ProbeWorker:
    """The loop of one probe. `observe` tells it of the container; `settle` takes its results by container id."""

    pod: Pod
    container: AnyContainer
    kind: ProbeType
    probe: Probe
    clock: Clock
    ask: Callable[[Probe, AnyContainer, RuntimeContainer], Awaitable[Outcome]]
    settle: Callable[[ProbeType, RuntimeContainer, bool], None]
    report: Callable[[ProbeType, AnyContainer, Outcome], None]
    started: Callable[[RuntimeContainer], bool]
    current: RuntimeContainer | None = None
    stopping: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def observe(self, current: RuntimeContainer | None) -> None:
        """The container as the runtime has it now."""
        if current != self.current:
            self.current = current
            self.changed.set()

    def stop(self) -> None:
        """The pod is ending: only readiness goes on being asked."""
        self.stopping = True
        self.changed.set()

    def poke(self) -> None:
        """Look again now, because the startup probe has succeeded."""
        self.changed.set()

    async def run(self) -> None:
        """Probe one container after the other until cancelled."""
        while True:
            self.changed.clear()
            current = self.current
            if current is not None and current.running and self._due(current):
                await self._probe(current)
            else:
                await self.changed.wait()

    def _due(self, current: RuntimeContainer) -> bool:
        if self.stopping and self.kind is not ProbeType.READINESS:
            return False
        return self.started(current) != (self.kind is ProbeType.STARTUP)

    def _same(self, current: RuntimeContainer) -> bool:
        return self.current is not None and self.current.id == current.id and self.current.running

    async def _probe(self, current: RuntimeContainer) -> None:
        """Ask `current` until it ends or its result can change no more."""
        streak = Streak(self.probe.success_threshold or 1, self.probe.failure_threshold or DEFAULT_FAILURES)
        if not await self._pause(current, self._until_first(current)):
            return
        while self._same(current) and self._due(current):
            outcome = await self.ask(self.probe, self.container, current)
            if not (self._same(current) and self._due(current)):
                return
            if outcome.verdict is not Verdict.SUCCESS:
                self.report(self.kind, self.container, outcome)
            result = streak.add(outcome.verdict)
            if result is not None:
                self.settle(self.kind, current, result)
                if not result and self.kind is not ProbeType.READINESS:
                    await self._hold(current)
                    return
            if not await self._pause(current, self.probe.period_seconds or DEFAULT_PERIOD):
                return

    def _until_first(self, current: RuntimeContainer) -> float:
        began = current.started_at or self.clock.now()
        first = began + timedelta(seconds=self.probe.initial_delay_seconds or 0)
        return (first - self.clock.now()).total_seconds()

    async def _pause(self, current: RuntimeContainer, seconds: float) -> bool:
        """Wait; False when the container has changed meanwhile, so that the loop begins again."""
        ends = self.clock.monotonic() + seconds
        while (left := ends - self.clock.monotonic()) > 0:
            self.changed.clear()
            await wait_event(self.changed, self.clock, left)
            if not self._same(current) or not self._due(current):
                return False
        return True

    async def _hold(self, current: RuntimeContainer) -> None:
        """Wait until the container has been replaced."""
        while self._same(current):
            self.changed.clear()
            await self.changed.wait()
