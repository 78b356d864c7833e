"""Nominated pods keep the room that was made for them, and lose it with their nomination."""

from __future__ import annotations

from tests.unit.scheduler.builders import make_cache, make_framework, make_node, make_pod
from tiphys.scheduler.beside import Beside
from tiphys.scheduler.cache import Cache
from tiphys.scheduler.framework.diagnosis import Unschedulable
from tiphys.scheduler.nominator import NominatedPods
from tiphys.scheduler.podinfo import PodInfo

FRAMEWORK = make_framework()


def fits(beside: Beside, cache: Cache, pod: PodInfo) -> set[str] | str:
    """The nodes of the cache that are left for a pod, or why none is."""
    left = beside.narrow(FRAMEWORK, pod, cache.nodes.alive.copy())
    if isinstance(left, Unschedulable):
        return left.message()
    return {name for name, row in cache.nodes.row_of.items() if left[row]}


def test_room_is_kept_for_those_who_are_as_important() -> None:
    cache, nominated = make_cache(make_node("a", cpu="2"), make_node("b", cpu="2")), NominatedPods()
    nominated.on_change = cache.touch
    beside = Beside(cache.nodes, nominated)
    rival, small = make_pod("rival", {"cpu": "1500m"}, priority=10), make_pod("small", {"cpu": "1"}, priority=5)
    assert fits(beside, cache, small) == {"a", "b"}
    nominated.nominate(rival, "a")
    assert fits(beside, cache, small) == {"b"}
    assert fits(beside, cache, make_pod("important", {"cpu": "1"}, priority=11)) == {"a", "b"}
    assert fits(beside, cache, make_pod("tiny", {"cpu": "500m"}, priority=5)) == {"a", "b"}
    nominated.nominate(make_pod("other", {"cpu": "2"}, priority=5), "b")
    assert fits(beside, cache, small) == "0/2 nodes are available: 2 Insufficient cpu."
    nominated.nominate(rival, "b")  # moved
    assert fits(beside, cache, small) == {"a"}
    nominated.forget(rival.uid)
    cache.set_node(make_node("b", cpu="4"))
    assert fits(beside, cache, small) == {"a", "b"}


def test_its_own_room_comes_first_but_for_others_who_have_it_too() -> None:
    cache, nominated = make_cache(make_node("a", cpu="2"), make_node("b", cpu="2")), NominatedPods()
    nominated.on_change = cache.touch
    beside = Beside(cache.nodes, nominated)
    pod = make_pod("p", {"cpu": "1500m"}, priority=10)
    everywhere = cache.nodes.alive.copy()
    assert beside.promised(FRAMEWORK, pod, everywhere) is None
    nominated.nominate(pod, "a", frozenset({"victim"}))
    assert nominated.victims_of(pod.uid) == {"victim"}
    promised = beside.promised(FRAMEWORK, pod, everywhere)
    assert promised is not None and promised.tolist() == [True, False]
    assert fits(beside, cache, pod) == {"a", "b"}
    nominated.nominate(make_pod("rival", {"cpu": "1"}, priority=10), "a")
    assert beside.promised(FRAMEWORK, pod, everywhere) is None
    assert fits(beside, cache, pod) == {"b"}
