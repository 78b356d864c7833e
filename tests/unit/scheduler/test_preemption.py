"""Preemption: whom, and on which node; and that asking "what if" leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import pytest

from tests.unit.scheduler.builders import HOSTNAME, make_cache, make_framework, make_node, make_pod
from tiphys.api.policy.v1 import PodDisruptionBudget
from tiphys.scheduler.cache import Cache
from tiphys.scheduler.framework.diagnosis import Unschedulable
from tiphys.scheduler.framework.interface import CycleState
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.preemption import Answers, best_candidate, candidates_wanted, find_candidates


def budget(app: str, allowed: int) -> PodDisruptionBudget:
    return msgspec.convert(
        {
            "metadata": {"name": app, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {"disruptionsAllowed": allowed},
        },
        PodDisruptionBudget,
    )


def on(name: str, cpu: str, priority: int, start: int = 0, **more: Any) -> PodInfo:
    status = {"startTime": f"2024-01-01T00:00:{start:02}Z"}
    return make_pod(name, {"cpu": cpu}, priority=priority, status=status, **more)


def preempt(
    pod: PodInfo,
    placed: Mapping[str, Sequence[PodInfo]],
    budgets: Sequence[PodDisruptionBudget] = (),
    taints: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
) -> tuple[str, list[str]] | str:
    """The node and the victims' names, or what is said."""
    cache = make_cache(
        *(make_node(name, cpu="2", taints=(taints or {}).get(name, ())) for name in placed), placed=placed
    )
    framework = make_framework()
    found = framework.find_feasible(CycleState(), pod, cache.nodes)
    assert isinstance(found, Unschedulable)
    before = state_of(cache)
    candidates, message = find_candidates(
        pod,
        cache.nodes,
        found.resolvable(),
        framework,
        budgets,
        rivals_on=lambda _: (),
        start=0,
        wanted=100,
        answers=Answers(),
    )
    assert state_of(cache) == before
    if not candidates:
        return message
    best = best_candidate(candidates)
    return best.node, [victim.key.name for victim in best.victims]


def state_of(cache: Cache) -> Any:
    nodes = cache.nodes
    return (
        nodes.requested.tolist(),
        nodes.nonzero.tolist(),
        [sorted(info.pods) for info in nodes.rows if info is not None],
    )


def test_as_few_as_possible_and_the_least_important() -> None:
    placed = {"a": [on("low", "1", 1), on("mid", "500m", 5), on("high", "500m", 9)]}
    assert preempt(on("p", "1", 10), placed) == ("a", ["low"])
    assert preempt(on("p", "1500m", 10), placed) == ("a", ["mid", "low"])


@pytest.mark.parametrize(
    ("placed", "expected"),
    [
        ({"a": [on("x", "2", 5)], "b": [on("y", "2", 3)]}, ("b", ["y"])),
        ({"a": [on("x", "1", 3), on("x2", "1", 3)], "b": [on("y", "2", 3)]}, ("b", ["y"])),
        ({"a": [on("x", "2", 3, start=1)], "b": [on("y", "2", 3, start=9)]}, ("b", ["y"])),
        ({"a": [on("x", "2", 3)], "b": [on("y", "2", 3)]}, ("a", ["x"])),
    ],
    ids=["lowest-highest-priority", "fewest", "latest-started", "first"],
)
def test_the_best_node(placed: Mapping[str, Sequence[PodInfo]], expected: tuple[str, list[str]]) -> None:
    assert preempt(on("p", "2", 10), placed) == expected


def test_broken_budgets_weigh_most() -> None:
    placed = {"a": [on("x", "2", 1, labels={"app": "kept"})], "b": [on("y", "2", 9)]}
    assert preempt(on("p", "2", 10), placed, [budget("kept", 0)]) == ("b", ["y"])
    assert preempt(on("p", "2", 10), placed, [budget("kept", 1)]) == ("a", ["x"])


def test_a_protected_pod_is_put_back_first() -> None:
    placed = {"a": [on("plain", "1", 5), on("kept", "1", 1, labels={"app": "kept"})]}
    assert preempt(on("p", "1", 10), placed, [budget("kept", 0)]) == ("a", ["plain"])


def test_what_is_said_when_nobody_can_go() -> None:
    placed = {"a": [on("x", "2", 10)], "b": [on("y", "2", 10)], "c": []}
    taints = {"c": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}
    assert preempt(on("p", "2", 10), placed, taints=taints) == (
        "0/3 nodes are available: 1 Preemption is not helpful for scheduling, "
        "2 No preemption victims found for incoming pod."
    )


def test_a_pod_too_large_for_every_node_evicts_nobody() -> None:
    assert preempt(on("p", "3", 10), {"a": [on("x", "2", 1)]}) == (
        "0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )


def test_anti_affinity_is_resolved_by_eviction() -> None:
    term = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": HOSTNAME}
    anti = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    placed = {"a": [on("web", "1", 1, labels={"app": "web"}), on("db", "500m", 1)]}
    assert preempt(on("p", "100m", 10, affinity=anti), placed) == ("a", ["web"])


@pytest.mark.parametrize(("nodes", "wanted"), [(10, 10), (500, 100), (5000, 500)])
def test_how_many_candidates_are_enough(nodes: int, wanted: int) -> None:
    assert candidates_wanted(nodes, 10, 100) == wanted


def test_what_is_remembered_is_what_would_be_found_anew() -> None:
    names = [f"n{number}" for number in range(6)]
    placed = {name: [on(f"{name}-{index}", "1", index + 1) for index in range(2)] for name in names}
    cache = make_cache(*(make_node(name, cpu="2") for name in names), placed=placed)
    framework, answers, random = make_framework(), Answers(), Random(3)

    def ask(remembered: Answers, cpu: str) -> list[tuple[str, list[str]]]:
        rows = cache.nodes.alive.copy()
        found, _ = find_candidates(
            on("p", cpu, 10),
            cache.nodes,
            rows,
            framework,
            (),
            rivals_on=lambda _: (),
            start=0,
            wanted=100,
            answers=remembered,
        )
        return [(one.node, [victim.key.name for victim in one.victims]) for one in found]

    for step in range(40):
        cpu = random.choice(["1", "2", "3"])
        assert ask(answers, cpu) == ask(Answers(), cpu)
        name = random.choice(names)
        match random.randrange(4):
            case 0:
                cache.set_pod(on(f"new-{step}", "500m", random.randrange(20)), name)
            case 1:
                taints = [{"key": "k", "value": "v", "effect": "NoSchedule"}] if random.random() < 0.5 else ()
                cache.set_node(make_node(name, cpu=random.choice(["1", "2", "3"]), taints=taints))
            case 2:
                victim = random.choice(placed[name])
                cache.remove_pod(victim.uid)
            case 3:  # it started later than was thought: another order of importance
                old = random.choice(placed[name])
                began = msgspec.structs.replace(old.pod.status, start_time=datetime(2024, 1, 1, 0, 1, step, tzinfo=UTC))
                if cache.placed(old.uid) is not None:
                    cache.set_pod(PodInfo(msgspec.structs.replace(old.pod, status=began)), name)


def test_pods_that_look_beyond_a_node_are_not_remembered() -> None:
    cache = make_cache(make_node("a"))
    term = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": HOSTNAME}
    anti = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    framework = make_framework()
    assert framework.row_local(on("p", "1", 1), cache.nodes) is not None
    assert framework.row_local(on("p", "1", 1, affinity=anti), cache.nodes) is None
