"""Leader election on a coordination.k8s.io Lease: of several processes one works, the others wait.

A candidate may take the lease when it has not seen it change for the lease's duration, measured by
its own clock, so that clocks of different machines need not agree. The leader stops working when it
could not renew in time, which is earlier than anyone may take over: at most one works at a time.
https://kubernetes.io/docs/concepts/architecture/leases/#leader-election
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.coordination.v1 import Lease, LeaseSpec
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client.events import EventRecorder
from tiphys.client.rest import Client
from tiphys.client.transport import ApiConnectionError
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

LEASE_DURATION: Final = timedelta(seconds=15)
RENEW_DEADLINE: Final = timedelta(seconds=10)
RETRY_PERIOD: Final = timedelta(seconds=2)


class LeadershipLost(Exception):
    """The lease could not be renewed in time; the process should end and stand for election again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """Who stands for which lease, and its times (see LeaderElector)."""

    lease: ObjectName
    identity: str
    lease_duration: timedelta = LEASE_DURATION
    renew_deadline: timedelta = RENEW_DEADLINE
    retry_period: timedelta = RETRY_PERIOD

    def candidate(self, client: Client, clock: Clock, recorder: EventRecorder | None = None) -> LeaderElector:
        """The candidate; `recorder` is told who leads."""
        return LeaderElector(
            client,
            clock,
            lease=self.lease,
            identity=self.identity,
            recorder=recorder,
            lease_duration=self.lease_duration,
            renew_deadline=self.renew_deadline,
            retry_period=self.retry_period,
        )


class LeaderElector:
    """One candidate for one lease.

    `identity` must differ between processes that live at the same time. A process that comes back
    with the identity of its former self leads at once.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        lease: ObjectName,
        identity: str,
        recorder: EventRecorder | None = None,
        lease_duration: timedelta = LEASE_DURATION,
        renew_deadline: timedelta = RENEW_DEADLINE,
        retry_period: timedelta = RETRY_PERIOD,
    ) -> None:
        self._client = client
        self._clock = clock
        self._name = lease
        self._identity = identity
        self._recorder = recorder
        self._duration = lease_duration
        self._deadline = renew_deadline
        self._retry = retry_period
        self._seen: LeaseSpec | None = None
        self._seen_at = 0.0
        self.is_leader = False

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then do `work` while holding it; give it up when `work` ends or is cancelled.

        Raises LeadershipLost, after cancelling `work`, when the lease was lost.
        """
        await self._acquire()
        self.is_leader = True
        log.info("%s: %s became leader", self._name, self._identity)
        try:
            async with Supervised(self._clock) as tasks:
                renewing = tasks.spawn(self._renew, name=f"renew {self._name}")
                try:
                    await work()
                finally:
                    renewing.cancel()
        finally:
            self.is_leader = False
            await self._release()

    async def _acquire(self) -> None:
        while not await self._try():
            await self._clock.sleep(self._retry.total_seconds() * random.uniform(1.0, 2.2))

    async def _renew(self) -> None:
        deadline, retry = self._deadline.total_seconds(), self._retry.total_seconds()
        renewed = self._clock.monotonic()
        while True:
            await self._clock.sleep(retry)
            left = deadline - (self._clock.monotonic() - renewed)
            try:
                # A server that hangs says neither yes nor no, and meanwhile the lease goes to another.
                async with asyncio.timeout(max(left, retry)):
                    held = await self._try()
            except TimeoutError as error:
                raise LeadershipLost(f"failed to renew lease {self._name}: no answer") from error
            if held:
                renewed = self._clock.monotonic()
            elif self._clock.monotonic() - renewed >= deadline:
                raise LeadershipLost(f"failed to renew lease {self._name}")

    async def _try(self) -> bool:
        """Take or renew the lease; False when another holds it or the server cannot be asked."""
        try:
            return await self._try_once()
        except (StatusError, ApiConnectionError) as error:
            log.debug("lease %s: %s", self._name, error)
            return False

    async def _try_once(self) -> bool:
        now = _micro(self._clock.now())
        try:
            lease = await self._client.get(Lease, self._name)
        except NotFoundError:
            spec = LeaseSpec(
                holder_identity=self._identity,
                lease_duration_seconds=self._seconds(),
                acquire_time=now,
                renew_time=now,
                lease_transitions=0,
            )
            meta = ObjectMeta(name=self._name.name, namespace=self._name.namespace)
            await self._client.create(Lease(metadata=meta, spec=spec))
            self._announce()
            return True
        if lease.spec != self._seen:
            self._seen, self._seen_at = lease.spec, self._clock.monotonic()
        held_by_us = lease.spec.holder_identity == self._identity
        if not held_by_us and lease.spec.holder_identity and not self._expired(lease.spec):
            return False
        spec = replace(
            lease.spec,
            holder_identity=self._identity,
            lease_duration_seconds=self._seconds(),
            renew_time=now,
        )
        if not held_by_us:
            transitions = (lease.spec.lease_transitions or 0) + 1
            spec = replace(spec, acquire_time=now, lease_transitions=transitions)
        updated = await self._client.update(replace(lease, spec=spec))
        self._seen, self._seen_at = updated.spec, self._clock.monotonic()
        if not held_by_us:
            self._announce()
        return True

    def _expired(self, spec: LeaseSpec) -> bool:
        duration = spec.lease_duration_seconds or self._seconds()
        return self._clock.monotonic() - self._seen_at >= duration

    async def _release(self) -> None:
        """Let another lead at once instead of after the lease's duration."""
        try:
            async with asyncio.timeout(self._deadline.total_seconds()):
                lease = await self._client.get(Lease, self._name)
                if lease.spec.holder_identity == self._identity:
                    now = _micro(self._clock.now())
                    spec = replace(
                        lease.spec, holder_identity="", lease_duration_seconds=1, renew_time=now, acquire_time=now
                    )
                    await self._client.update(replace(lease, spec=spec))
        except (StatusError, ApiConnectionError, TimeoutError) as error:
            log.debug("lease %s: not released: %s", self._name, error)

    def _announce(self) -> None:
        if self._recorder is not None:
            holder = Lease(metadata=ObjectMeta(name=self._name.name, namespace=self._name.namespace))
            self._recorder.event(holder, "Normal", "LeaderElection", f"{self._identity} became leader")

    def _seconds(self) -> int:
        return int(self._duration.total_seconds())


def _micro(moment: datetime) -> datetime:
    """`moment` with a fraction: MicroTime is written with six digits, which a zero fraction would leave out."""
    return moment if moment.microsecond else moment.replace(microsecond=1)
