"""Who gets how many seats: the figures of a real v1.36 server, and the rules for lending."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiphys.apiserver.bootstrap import flowcontrol as bootstrap
from tiphys.apiserver.flowcontrol.dealer import flow_hash, hand_of
from tiphys.apiserver.flowcontrol.demand import Demand
from tiphys.apiserver.flowcontrol.shares import Claim, LevelSpec, Limits, divide, limits_of


def test_limits_of_a_new_cluster() -> None:
    # apiserver_flowcontrol_nominal_limit_seats, …lower… and …upper… of kube-apiserver v1.36 with its default flags.
    assert limits_of(list(map(LevelSpec.from_json, bootstrap.levels())), 600) == {
        "exempt": Limits(0, 0, 600),
        "catch-all": Limits(13, 13, 613),
        "global-default": Limits(49, 24, 649),
        "leader-election": Limits(25, 25, 625),
        "node-high": Limits(98, 73, 698),
        "system": Limits(74, 50, 674),
        "workload-high": Limits(98, 49, 698),
        "workload-low": Limits(245, 24, 845),
    }


def test_borrowing_limit() -> None:
    specs = [LevelSpec("a", shares=1, borrowing=50), LevelSpec("b", shares=3, lendable=100, borrowing=0)]
    assert limits_of(specs, 100) == {"a": Limits(25, 25, 38), "b": Limits(75, 0, 75)}


@pytest.mark.parametrize(
    ("claims", "seats", "wanted", "fraction"),
    [
        ([], 10, [], 0),
        ([Claim(2, 100, 5), Claim(2, 100, 5)], 10, [5, 5], 1),
        ([Claim(2, 100, 2), Claim(2, 100, 8)], 20, [4, 16], 2),
        ([Claim(8, 100, 8), Claim(1, 100, 16)], 12, [8, 4], 0.25),
        ([Claim(1, 3, 8), Claim(1, 100, 1)], 10, [3, 7], 7),
        ([Claim(8, 100, 8), Claim(8, 100, 9)], 12, [8, 8], 0),
        ([Claim(0, 2, 1), Claim(0, 2, 1)], 12, [2, 2], 0),
    ],
)
def test_division(claims: list[Claim], seats: float, wanted: list[float], fraction: float) -> None:
    found, common = divide(claims, seats)
    assert found == pytest.approx(wanted, abs=1e-3)
    assert common == pytest.approx(fraction, abs=1e-3)


def test_demand_is_weighted_by_time() -> None:
    demand = Demand(0.0)
    demand.change(4, 0.0)
    demand.change(-4, 2.5)
    seen = demand.take(10.0)
    assert (seen.high, seen.average) == (4, 1.0)
    assert seen.deviation == pytest.approx(3**0.5)
    assert demand.smoothed == pytest.approx(1 + 3**0.5)
    for moment in range(20, 320, 10):  # half of it is left after five minutes without any
        demand.take(float(moment))
    assert demand.smoothed == pytest.approx((1 + 3**0.5) / 2, rel=0.02)


@given(value=st.integers(0, 2**64 - 1), queues=st.integers(1, 128), data=st.data())
def test_a_hand_has_different_cards(value: int, queues: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, min(queues, 8)))
    hand = hand_of(value, queues, size)
    assert len(set(hand)) == size
    assert all(0 <= card < queues for card in hand)


def test_hands_are_dealt_evenly() -> None:
    counts = [0] * 64
    for flow in range(4000):
        for card in hand_of(flow_hash("s", str(flow)), 64, 6):
            counts[card] += 1
    assert max(counts) < 1.3 * min(counts)
