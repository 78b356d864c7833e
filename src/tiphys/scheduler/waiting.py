"""Pods that a Permit plugin holds back: decided and reserved, not yet bound."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tiphys.base.clock import Clock
from tiphys.scheduler.framework.interface import Refusal, Wait
from tiphys.scheduler.podinfo import PodInfo


class WaitingPods:
    """Each waits until every plugin that holds it allows it, one rejects it, or a time is over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._holding: dict[str, dict[str, Wait]] = {}
        self._answers: dict[str, asyncio.Future[Refusal | None]] = {}

    def add(self, pod: PodInfo, waits: Mapping[str, Wait]) -> None:
        self._holding[pod.uid] = dict(waits)
        self._answers[pod.uid] = asyncio.get_running_loop().create_future()

    def allow(self, uid: str, plugin: str) -> None:
        """One plugin lets go."""
        holding = self._holding.get(uid)
        if holding is not None:
            holding.pop(plugin, None)
            if not holding and not self._answers[uid].done():
                self._answers[uid].set_result(None)

    def reject(self, uid: str, plugin: str, reason: str) -> None:
        answer = self._answers.get(uid)
        if answer is not None and not answer.done():
            answer.set_result(Refusal(reason, plugin))

    def remove(self, uid: str) -> None:
        self._holding.pop(uid, None)
        self._answers.pop(uid, None)

    def is_waiting(self, uid: str) -> bool:
        """Whether anything was said of the pod that `wait` has not told yet."""
        return uid in self._answers

    async def wait(self, pod: PodInfo) -> Refusal | None:
        """What became of the pod; at once for one that nobody holds."""
        answer = self._answers.get(pod.uid)
        if answer is None:
            return None
        if answer.done():  # before it was waited for
            self.remove(pod.uid)
            return answer.result()
        plugin, shortest = min(self._holding[pod.uid].items(), key=lambda entry: entry[1].seconds)
        timer = asyncio.ensure_future(self._clock.sleep(shortest.seconds))
        try:
            await asyncio.wait((answer, timer), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            return Refusal(f"rejected due to timeout after waiting {shortest.seconds:g}s at plugin {plugin}", plugin)
        finally:
            timer.cancel()
            self.remove(pod.uid)
