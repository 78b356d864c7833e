"""Leader election: one works at a time, also when leaders die or cannot reach the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import pytest

from tests.unit.client.fakeapi import FakeApi
from tests.unit.client.faults import FaultyTransport, Rates
from tiphys.base.clock import FakeClock, SystemClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, LeaderElector, LeadershipLost, RestConfig
from tiphys.client.transport import Response
from tiphys.machinery.meta import ObjectName

LEASE = ObjectName("kube-system", "kcm")
LEASES = "/apis/coordination.k8s.io/v1/leases"


class Candidate:
    def __init__(self, api: FakeApi, clock: FakeClock, name: str) -> None:
        self.transport = FaultyTransport(api, clock, 0, Rates.none())
        client = Client(RestConfig(server="http://test"), clock=clock, transport=self.transport)
        self.elector = LeaderElector(client, clock, lease=LEASE, identity=name)
        self.working = False
        self.lost = False
        self.clock = clock

    async def run(self) -> None:
        try:
            await self.elector.run(self._work)
        except LeadershipLost:
            self.lost = True

    async def _work(self) -> None:
        self.working = True
        try:
            await self.clock.sleep(10**6)
        finally:
            self.working = False


async def advance(clock: FakeClock, seconds: float, check: Callable[[], object] | None = None) -> None:
    for _ in range(int(seconds * 4)):
        await clock.advance(0.25)
        if check is not None:
            check()


def both() -> tuple[FakeClock, FakeApi, Candidate, Candidate]:
    clock = FakeClock()
    api = FakeApi(clock)
    return clock, api, Candidate(api, clock, "one"), Candidate(api, clock, "two")


async def test_the_second_waits_while_the_first_renews() -> None:
    clock, api, one, two = both()
    async with Supervised(clock) as tasks:
        tasks.spawn(one.run, name="one")
        await advance(clock, 1)
        tasks.spawn(two.run, name="two")
        await advance(clock, 60)
        assert (one.working, two.working) == (True, False)
    lease = api.get(LEASES, *LEASE)
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""  # given up on the way out


async def test_a_dead_leader_is_followed_after_the_lease_duration() -> None:
    clock, _, one, two = both()
    async with Supervised(clock) as tasks:
        tasks.spawn(one.run, name="one")
        await advance(clock, 5)
        tasks.spawn(two.run, name="two")
        await advance(clock, 5)
        one.transport.rates = Rates(1, 0, 0, 0, 0, 0, 0)  # it can no longer reach the server

        def never_both() -> None:
            assert not (one.working and two.working)

        await advance(clock, 25, never_both)
        assert one.lost
        assert two.working


async def test_a_process_that_comes_back_under_its_name_leads_at_once() -> None:
    clock, _, one, _ = both()
    async with Supervised(clock) as tasks:
        task = tasks.spawn(one.run, name="one")
        await advance(clock, 5)
        one.transport.rates = Rates(1, 0, 0, 0, 0, 0, 0)
        task.cancel()
        await advance(clock, 1)
        again = Candidate(one.transport._inner, clock, "one")  # type: ignore[arg-type]
        tasks.spawn(again.run, name="again")
        await advance(clock, 1)
        assert again.working


async def test_leaving_gives_the_lease_up_at_once() -> None:
    clock, _, one, two = both()

    async def wait(work: Callable[[], Awaitable[None]]) -> None:
        await work()

    async with Supervised(clock) as tasks:
        first = tasks.spawn(one.run, name="one")
        await advance(clock, 3)
        tasks.spawn(two.run, name="two")
        await advance(clock, 3)
        first.cancel()
        await advance(clock, 6)
        assert two.working


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_a_few_failed_renewals_do_no_harm(failures: int) -> None:
    clock, _, one, _ = both()
    async with Supervised(clock) as tasks:
        tasks.spawn(one.run, name="one")
        await advance(clock, 5)
        one.transport.rates = Rates(1, 0, 0, 0, 0, 0, 0)
        await advance(clock, failures * 2)
        one.transport.heal()
        await advance(clock, 30)
        assert one.working


class Hanging(FaultyTransport):
    """A server that hangs from some moment on: connections stay open, and nothing comes."""

    hangs = False

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        if self.hangs:
            await asyncio.Event().wait()
        return await super().request(method, target, headers, body)


async def test_a_leader_whose_server_hangs_gives_up_too() -> None:
    clock = SystemClock()  # what hangs is ended by the loop's own time
    transport = Hanging(FakeApi(clock), clock, 0, Rates.none())
    elector = LeaderElector(
        Client(RestConfig(server="http://test"), clock=clock, transport=transport),
        clock,
        lease=LEASE,
        identity="one",
        renew_deadline=timedelta(seconds=0.2),
        retry_period=timedelta(seconds=0.02),
    )
    ended = False

    async def work() -> None:
        nonlocal ended
        transport.hangs = True
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    with pytest.raises(LeadershipLost):
        await asyncio.wait_for(elector.run(work), 30)
    assert ended and not elector.is_leader
