"""Sets of fields: the algebra, by a model of plain sets of paths."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tiphys.machinery.fieldset import (
    Node,
    children,
    difference,
    intersection,
    is_member,
    ordered,
    paths,
    recursive_difference,
    union,
)

Paths = frozenset[tuple[str, ...]]

PATHS = st.frozensets(
    st.lists(st.sampled_from(["f:a", "f:b", 'k:{"n":1}', 'v:"x"']), min_size=1, max_size=3).map(tuple), max_size=6
)


def build(members: Paths) -> Node:
    """The set of these members.     {("f:a",), ("f:a", "f:b")} → {"f:a": {".": {}, "f:b": {}}}"""
    out: Any = {}
    for path in members:
        here = out
        for key in path:
            here = here.setdefault(key, {})
        here["."] = {}
    return tidy(out)


def tidy(node: Any) -> Any:
    below = {key: tidy(child) for key, child in node.items() if key != "."}
    return {".": {}, **below} if "." in node and below else below


def members(node: Node, prefix: tuple[str, ...] = ()) -> Paths:
    found: set[tuple[str, ...]] = set()
    for key, child in node.items():
        if key == ".":
            continue
        if is_member(child):
            found.add((*prefix, key))
        found |= members(children(child), (*prefix, key))
    return frozenset(found)


@given(PATHS)
def test_a_set_is_its_members(some: Paths) -> None:
    assert members(build(some)) == some
    assert ordered(build(some)) == build(some)


@given(PATHS, PATHS)
def test_algebra(left: Paths, right: Paths) -> None:
    one, other = build(left), build(right)
    assert members(union(one, other)) == left | right
    assert members(intersection(one, other)) == left & right
    assert members(difference(one, other)) == left - right
    below = {path for path in left if any(path[: len(gone)] == gone for gone in right)}
    assert members(recursive_difference(one, other)) == left - below


def test_paths_read_as_messages_show_them() -> None:
    node = {
        "f:spec": {
            'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}},
            'k:{"port":9,"protocol":"TCP"}': {},
            'v:"x"': {},
        }
    }
    assert list(paths(node)) == [
        '.spec[port=9,protocol="TCP"]',
        '.spec[port=80,protocol="TCP"]',
        '.spec[="x"]',
        '.spec[port=80,protocol="TCP"].name',
    ]
