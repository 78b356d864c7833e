"""Sets of fields, in the form in which `managedFields` stores them, and the operations on them.

    {"f:spec": {"f:replicas": {}, "f:ports": {".": {}, 'k:{"port":80}': {".": {}, "f:name": {}}}}}

A node that is empty is a member; so is one with `.`; one with children only is just a way to them. Path elements are
`f:` a field or map key, `k:` an associative list's item by its keys, `v:` a set's item by its value, `i:` an index.
Nodes are shared between sets and never changed. Source: sigs.k8s.io/structured-merge-diff, FieldsV1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import orjson

from tiphys.machinery.field import show

Node = dict[str, Any]

LEAF: Final[Node] = {}
MEMBER: Final = "."


def is_member(node: Node) -> bool:
    return not node or MEMBER in node


def children(node: Node) -> Node:
    """The node without its own membership."""
    if MEMBER in node:
        return {key: child for key, child in node.items() if key != MEMBER}
    return node


def combine(member: bool, below: Node) -> Node | None:
    """The node of a membership and children; None when it is nothing."""
    if member:
        return {MEMBER: LEAF, **below} if below else LEAF
    return below or None


def union(left: Node, right: Node) -> Node:
    """Members of either; of two sets, that is of root nodes."""
    if not left or not right:
        return left or right
    out = dict(left)
    for key, theirs in right.items():
        ours = out.get(key)
        out[key] = theirs if ours is None else _join(ours, theirs)
    return out


def _join(left: Node, right: Node) -> Node:
    if left is right or left == right:
        return left
    joined = combine(is_member(left) or is_member(right), union(children(left), children(right)))
    assert joined is not None  # both had something
    return joined


def difference(left: Node, right: Node) -> Node:
    """Members of left that are not members of right. A parent's membership says nothing of its children's."""
    if not left or not right:
        return left
    out: Node = {}
    for key, ours in left.items():
        theirs = right.get(key)
        if theirs is None:
            out[key] = ours
            continue
        rest = combine(
            is_member(ours) and not is_member(theirs),
            difference(children(ours), children(theirs)),
        )
        if rest is not None:
            out[key] = rest
    return out


def recursive_difference(left: Node, right: Node) -> Node:
    """Left without right's members and everything below them."""
    if not left or not right:
        return left
    out: Node = {}
    for key, ours in left.items():
        theirs = right.get(key)
        if theirs is None:
            out[key] = ours
        elif not is_member(theirs):
            rest = combine(is_member(ours), recursive_difference(children(ours), theirs))
            if rest is not None:
                out[key] = rest
    return out


def intersection(left: Node, right: Node) -> Node:
    """Members of both."""
    out: Node = {}
    if left and right:
        for key, ours in left.items():
            theirs = right.get(key)
            if theirs is not None:
                both = combine(is_member(ours) and is_member(theirs), intersection(children(ours), children(theirs)))
                if both is not None:
                    out[key] = both
    return out


def paths(node: Node, prefix: str = "") -> Iterator[str]:
    """Every member as text: `.spec.ports[port=80,protocol="TCP"].name`; those of a level before those below them."""
    keys = [key for key in sorted(node, key=order) if key != MEMBER]
    yield from (prefix + element_text(key) for key in keys if is_member(node[key]))
    for key in keys:
        yield from paths(node[key], prefix + element_text(key))


def element_text(key: str) -> str:
    """A path element as messages show it."""
    value = key[2:]
    match key[0]:
        case "f":
            return f".{value}"
        case "k":
            return "[" + ",".join(f"{k}={show(v)}" for k, v in sorted(json.loads(value).items())) + "]"
        case "v":
            return f"[={show(json.loads(value))}]"
    return f"[{value}]"


_RANK: Final = {".": 0, "f": 1, "k": 2, "v": 3, "i": 4}


@lru_cache(maxsize=8192)  # objects of one kind have the same elements: parsing their keys each time costs a third
def order(key: str) -> tuple[Any, ...]:
    """Sorts path elements as the server writes them: numbers by size, not by digits."""
    kind = key[0]
    if kind == "k":
        pairs = sorted(json.loads(key[2:]).items())
        return (2, *((name, *_value_order(value)) for name, value in pairs))
    if kind == "v":
        return (3, _value_order(json.loads(key[2:])))
    return (4, int(key[2:])) if kind == "i" else (_RANK[kind], key)


def _value_order(value: Any) -> tuple[int, Any]:
    if isinstance(value, bool):
        return (2, value)
    if isinstance(value, (int, float)):
        return (0, value)
    return (1, value) if isinstance(value, str) else (3, str(value))


class Ordered(dict[str, Any]):
    """A node known to be in the server's order."""

    __slots__ = ()


def ordered(node: Node) -> Node:
    """The same set with every key in the order in which the server writes it."""
    if not node or type(node) is Ordered:
        return node
    keys = node if len(node) == 1 else sorted(node, key=order)
    return {key: ordered(child) if (child := node[key]) else child for key in keys}


def key_element(keys: Node) -> str:
    """The path element of an associative list's item."""
    return "k:" + orjson.dumps(keys, option=orjson.OPT_SORT_KEYS).decode()


def value_element(value: Any) -> str:
    """The path element of a set's item."""
    return "v:" + orjson.dumps(value).decode()
