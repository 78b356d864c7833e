"""The syntax tree. `at` is the offset in the text that an error about the node points to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Node:
    """Any expression."""

    __slots__ = ()
    at: int


@dataclass(slots=True)
class Literal(Node):
    """A constant: None, bool, int, UInt, float, str or bytes."""

    at: int
    value: Any


@dataclass(slots=True)
class Ident(Node):
    """A variable, or the name of a type."""

    at: int
    name: str


@dataclass(slots=True)
class Select(Node):
    """`operand.field`; `test` for has(), `optional` for `operand.?field`."""

    at: int
    operand: Node
    field: str
    test: bool = False
    optional: bool = False


@dataclass(slots=True)
class Call(Node):
    """A function or method; operators have the names of the language definition (`_+_`, `_[_]`, `@in`)."""

    at: int
    name: str
    target: Node | None
    args: list[Node]


@dataclass(slots=True)
class ListOf(Node):
    """`[a, ?b]`; `optional` has the indices of the items with a question mark."""

    at: int
    items: list[Node]
    optional: frozenset[int] = frozenset()


@dataclass(slots=True)
class MapOf(Node):
    """`{k: v, ?k: v}`: (key, value, optional)."""

    at: int
    entries: list[tuple[Node, Node, bool]]


@dataclass(slots=True)
class Struct(Node):
    """`Object.spec{replicas: 1}`: (field, value, optional)."""

    at: int
    name: str
    fields: list[tuple[str, Node, bool]]


@dataclass(slots=True)
class Macro(Node):
    """`target.name(v, …, body…)`: the comprehensions, and the optional macros."""

    at: int
    name: str
    target: Node
    variables: tuple[str, ...]
    args: list[Node]
