from __future__ import annotations

import pytest

from tests.unit.apiserver.core.objects import fields_of, make_entry
from tiphys.apiserver.watchcache import CacheEvent, Entry, Filter
from tiphys.machinery.selectors import LabelSelector

IN, OUT = {"app": "x"}, {"app": "y"}
WANTED = Filter("d", labels=LabelSelector.parse("app=x"), label_text="app=x")

# labels before and after (None: not there) → what the watcher sees
TABLE = {
    "created, matching": (None, IN, "ADDED"),
    "created, other": (None, OUT, None),
    "changed, matching": (IN, IN, "MODIFIED"),
    "comes into view": (OUT, IN, "ADDED"),
    "goes out of view": (IN, OUT, "DELETED"),
    "changed out of view": (OUT, OUT, None),
    "deleted, matching": (IN, None, "DELETED"),
    "deleted, other": (OUT, None, None),
}


def version(labels: dict[str, str] | None, revision: int, namespace: str = "d") -> Entry | None:
    return None if labels is None else make_entry("x", revision, namespace, labels=labels)


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_a_change_through_a_selector(case: tuple[dict[str, str] | None, dict[str, str] | None, str | None]) -> None:
    before, after, seen = case
    event = CacheEvent(2, version(after, 2), version(before, 1))
    assert WANTED.judge(event, lambda entry: fields_of(entry.peek())) == seen


def test_without_selectors_only_namespace_and_name_matter() -> None:
    event = CacheEvent(2, version(IN, 2), version(OUT, 1))
    assert Filter("d").judge(event, lambda entry: {}) == "MODIFIED"
    assert Filter("other").judge(event, lambda entry: {}) is None
    assert Filter("d", "y").judge(event, lambda entry: {}) is None


def test_equal_filters_share_a_group() -> None:
    same = Filter("d", labels=LabelSelector.parse("app=x"), label_text="app=x")
    assert same == WANTED
    assert hash(same) == hash(WANTED)
