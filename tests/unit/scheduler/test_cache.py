"""The cache and the table: whatever order things are learned in, the arrays add up."""

from __future__ import annotations

import numpy as np

from tests.unit.scheduler.builders import feasible_nodes, make_cache, make_framework, make_node, make_pod
from tiphys.scheduler.cache import Cache
from tiphys.scheduler.podinfo import PodInfo


def used(cache: Cache, name: str) -> tuple[float, float]:
    """CPU in millicores and number of pods counted on a node."""
    row = cache.nodes.row_of[name]
    return float(cache.nodes.requested[0, row]), float(cache.nodes.requested[3, row])


def test_assumed_then_seen_is_counted_once() -> None:
    cache, pod = make_cache(make_node("a")), make_pod(requests={"cpu": "1"})
    cache.assume(pod, "a")
    assert cache.is_assumed(pod.uid)
    cache.set_pod(PodInfo(pod.pod), "a")
    assert not cache.is_assumed(pod.uid)
    assert used(cache, "a") == (1000, 1)
    cache.forget(pod)  # a late failure of the binding changes nothing any more
    assert used(cache, "a") == (1000, 1)
    cache.remove_pod(pod.uid)
    assert used(cache, "a") == (0, 0)


def test_bound_elsewhere_than_assumed() -> None:
    cache, pod = make_cache(make_node("a"), make_node("b")), make_pod(requests={"cpu": "1"})
    cache.assume(pod, "a")
    cache.set_pod(PodInfo(pod.pod), "b")
    assert (used(cache, "a"), used(cache, "b")) == ((0, 0), (1000, 1))


def test_pods_before_their_node() -> None:
    cache, pod = make_cache(), make_pod(requests={"cpu": "1"})
    cache.set_pod(pod, "a")
    cache.set_node(make_node("a"))
    assert used(cache, "a") == (1000, 1)
    cache.remove_node("a")
    cache.set_node(make_node("a"))
    assert used(cache, "a") == (1000, 1)
    cache.remove_pod(pod.uid)
    assert used(cache, "a") == (0, 0)


def test_a_pod_resized_in_place() -> None:
    cache = make_cache(make_node("a"))
    pod = make_pod(requests={"cpu": "1"})
    cache.set_pod(pod, "a")
    smaller = make_pod(requests={"cpu": "250m"})
    smaller.uid = pod.uid
    cache.set_pod(smaller, "a")
    assert used(cache, "a") == (250, 1)


def test_rows_are_used_again_and_arrays_grow() -> None:
    cache, framework = make_cache(), make_framework()
    for number in range(40):
        cache.set_node(make_node(f"n{number}", labels={"even": str(number % 2 == 0)}))
        cache.assume(make_pod(requests={"cpu": "1"}, labels={"app": "web"}), f"n{number}")
    for number in range(0, 40, 2):
        cache.remove_node(f"n{number}")
    assert len(cache.nodes) == 20
    pod = make_pod(nodeSelector={"even": "True"})
    assert feasible_nodes(framework, cache, pod) == (
        "0/20 nodes are available: 20 node(s) didn't match Pod's node affinity/selector."
    )
    for number in range(50, 60):
        cache.set_node(make_node(f"n{number}", labels={"even": "True"}))
    assert feasible_nodes(framework, cache, pod) == {f"n{number}" for number in range(50, 60)}
    assert cache.nodes.width == 40


def test_a_focus_narrows_and_widens_again() -> None:
    cache = make_cache(make_node("a", cpu="1"), make_node("b", cpu="2"), make_node("c", cpu="3"))
    nodes = cache.nodes
    with nodes.focus(1):
        assert nodes.allocatable[0].tolist() == [2000]
        with nodes.focus(np.array([0, 2])):
            assert nodes.allocatable[0].tolist() == [1000, 3000]
    assert nodes.allocatable[0].tolist() == [1000, 2000, 3000]


def test_followed_arrays_see_every_change() -> None:
    """The same question before and after each change, against a fresh table's answer."""
    cache, framework = make_cache(*(make_node(f"n{number}", cpu="2") for number in range(8))), make_framework()
    placed: dict[str, list[PodInfo]] = {}
    for step in range(30):
        node = f"n{step * 5 % 8}"
        if step % 4 == 3 and placed.get(node):
            cache.forget(placed[node].pop())
        else:
            pod = make_pod(requests={"cpu": "700m"})
            cache.assume(pod, node)
            placed.setdefault(node, []).append(pod)
        fresh = make_cache(*(make_node(f"n{number}", cpu="2") for number in range(8)), placed=placed)
        question = make_pod(requests={"cpu": "700m"})
        assert feasible_nodes(framework, cache, question) == feasible_nodes(make_framework(), fresh, question)
