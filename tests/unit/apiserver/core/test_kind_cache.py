from __future__ import annotations

from tests.unit.apiserver.core.objects import make_cache, make_entry
from tiphys.apiserver.watchcache import Filter
from tiphys.machinery.selectors import FieldSelector, LabelSelector


def names(found: object) -> list[str]:
    return [entry.key for entry in found]  # type: ignore[attr-defined]


def test_lists_come_in_key_order_and_by_namespace() -> None:
    cache = make_cache()
    for revision, (namespace, name) in enumerate([("b", "a"), ("a", "z"), ("a", "a"), ("a-b", "m")], 1):
        cache.put(make_entry(name, revision, namespace))
    assert names(cache.select(Filter())) == ["a-b/m", "a/a", "a/z", "b/a"]
    assert names(cache.select(Filter("a"))) == ["a/a", "a/z"]
    assert names(cache.select(Filter("a"), start="a/a\0")) == ["a/z"]
    assert names(cache.select(Filter("a", "z"))) == ["a/z"]
    assert names(cache.select(Filter("", "a"))) == ["a/a", "b/a"]
    assert names(cache.select(Filter("none"))) == []


def test_selectors_look_at_labels_and_fields() -> None:
    cache = make_cache()
    cache.put(make_entry("one", 1, labels={"app": "x"}, data={"node": "n1"}))
    cache.put(make_entry("two", 2, labels={"app": "y"}, data={"node": "n1"}))
    labels = Filter(labels=LabelSelector.parse("app=x"), label_text="app=x")
    fields = Filter(fields=FieldSelector.parse("spec.nodeName=n1"), field_text="spec.nodeName=n1")
    assert names(cache.select(labels)) == ["d/one"]
    assert names(cache.select(fields)) == ["d/one", "d/two"]


def test_history_says_when_it_does_not_reach_back() -> None:
    cache = make_cache(revision=10, max_events=3)
    for revision in range(11, 16):
        cache.put(make_entry("x", revision))
    #  forgotten: 11 12     kept: 13 14 15
    assert cache.oldest_revision == 12
    assert cache.since(11) is None
    assert [event.revision for event in cache.since(12) or ()] == [13, 14, 15]
    assert [event.revision for event in cache.since(14) or ()] == [15]
    assert cache.since(15) == []


def test_a_removal_keeps_what_was_there() -> None:
    cache = make_cache()
    cache.put(make_entry("x", 1))
    event = cache.remove("d/x", 2)
    assert event is not None
    assert event.entry is None
    assert event.previous is not None
    assert (cache.keys, cache.last_change) == ([], 2)
    assert cache.remove("d/x", 3) is None
