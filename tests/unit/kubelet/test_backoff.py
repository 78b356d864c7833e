"""Back-off in virtual time."""

from __future__ import annotations

from datetime import timedelta

from tiphys.base.clock import FakeClock
from tiphys.kubelet.backoff import Backoff


async def test_periods_double_to_five_minutes_and_begin_again_after_quiet() -> None:
    clock = FakeClock()
    backoff = Backoff(clock)
    periods = []
    for _ in range(7):
        await clock.advance(backoff.remaining("a", clock.now()).total_seconds())
        periods.append(backoff.next("a", clock.now()).total_seconds())
    assert periods == [10, 20, 40, 80, 160, 300, 300]
    ended = clock.now() + timedelta(minutes=11)  # it ran well for eleven minutes
    await clock.advance(660)
    assert backoff.remaining("a", ended) == timedelta(0)
    assert backoff.next("a", ended) == timedelta(seconds=10)


async def test_what_is_left_counts_from_the_event() -> None:
    clock = FakeClock()
    backoff = Backoff(clock)
    ended = clock.now()
    assert backoff.remaining("a", ended) == timedelta(0)
    backoff.next("a", ended)
    await clock.advance(4)
    assert backoff.remaining("a", ended) == timedelta(seconds=6)
    assert backoff.remaining("b", ended) == timedelta(0)
    backoff.forget_prefix("a")
    assert backoff.remaining("a", ended) == timedelta(0)
