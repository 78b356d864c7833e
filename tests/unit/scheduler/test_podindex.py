"""Counts by selection, however pods come and go and counters are dropped, beside a plain recount."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.scheduler.builders import make_pod
from tiphys.machinery.selectors import LabelSelector, Requirement
from tiphys.scheduler import podindex
from tiphys.scheduler.podindex import PodIndex, Selection
from tiphys.scheduler.podinfo import PodInfo

ROWS = 4
names = st.sampled_from(("red", "blue", "green"))
labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("a", "b", "c")), max_size=2)
requirements = st.builds(
    lambda key, operator, values: Requirement(key, operator, tuple(values[:1] if operator == "=" else values)),
    st.sampled_from(("app", "tier")),
    st.sampled_from(("=", "in", "notin", "exists", "!")),
    st.lists(st.sampled_from(("a", "b", "c")), min_size=1, max_size=3),
)
selectors = st.one_of(
    st.just(LabelSelector(nothing=True)),
    st.builds(lambda all_of: LabelSelector(tuple(all_of)), st.lists(requirements, max_size=2)),
)
terms = st.tuples(st.one_of(st.none(), st.frozensets(names, max_size=2)), selectors)
selections = st.builds(
    lambda all_of, terminating: Selection(tuple(all_of), terminating), st.lists(terms, max_size=2), st.booleans()
)


def pod_of(namespace: str, have: Mapping[str, str], number: int) -> PodInfo:
    return make_pod(f"p{number}", namespace=namespace, labels=have)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_counts_are_those_of_a_recount(data: st.DataObject) -> None:
    asked = data.draw(st.lists(selections, min_size=1, max_size=6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(podindex, "MAX_COUNTERS", 2)
        index = PodIndex(ROWS, lambda _: {})
        size, placed = ROWS, list[tuple[PodInfo, int]]()
        for number in range(data.draw(st.integers(1, 25))):
            match data.draw(st.sampled_from(("add", "add", "remove", "ask", "ask", "grow"))):
                case "add":
                    placed.append((pod_of(data.draw(names), data.draw(labels), number), data.draw(st.integers(0, 3))))
                    index.add(*placed[-1])
                case "remove" if placed:
                    index.remove(*placed.pop(data.draw(st.integers(0, len(placed) - 1))))
                case "ask":
                    selection = data.draw(st.sampled_from(asked))
                    expected = [0.0] * size
                    for pod, row in placed:
                        expected[row] += selection.matches(pod.class_key)
                    assert list(index.counts(selection)) == expected
                case "grow":
                    size += 1
                    index.resize(size)


def test_nothing_is_kept_of_classes_and_counters_that_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podindex, "MAX_COUNTERS", 1)
    index = PodIndex(ROWS, lambda _: {})
    pods = [pod_of("red", {"app": value}, number) for number, value in enumerate("abc")]
    for pod in pods:
        index.add(pod, 0)
        of_its_kind = LabelSelector((Requirement("app", "=", (pod.labels["app"],)),))
        index.counts(Selection(((frozenset(("red",)), of_its_kind),), False))
    for pod in pods:
        index.remove(pod, 0)
    assert index._classes_at == {}
    assert list(index._counters_at) == [("red", ("app", "c"))]
