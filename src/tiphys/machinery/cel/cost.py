"""The most an expression may cost, told before it runs from how large the schema lets values become.

    cost(node) = what its parts cost + what the call reads;  a comprehension: items × (condition + body) + …

Sizes are those of types (`Type.size`), of literals, and of what calls make of them; what nobody knows is infinite.
Costs count as at run time: a variable or field 1, a list 10, a map 30, an object 40, a call 1, ten characters 1.
KEP-2876, "Estimated cost limits"; https://kubernetes.io/docs/reference/using-api/cel/#resource-constraints
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from tiphys.machinery.cel.ast import Call, Ident, ListOf, Literal, Macro, MapOf, Node, Select, Struct
from tiphys.machinery.cel.callcosts import CALLS, Asked, Estimate, Size
from tiphys.machinery.cel.parser import dotted_name
from tiphys.machinery.cel.signatures import NAMESPACES, TYPE_NAMES
from tiphys.machinery.cel.types import Type

UNKNOWN: Final[Size] = math.inf
# What the conditions and steps of a turn cost besides the body, and what surrounds the turns: the loops that macros
# stand for keep a result, which is read, added to (a list of one is made for that: 10) and asked about.
_TURN: Final = {"all": 3, "exists": 4, "exists_one": 2, "filter": 13, "transformMap": 3, "transformMapEntry": 2}
_LIST_TURN: Final = 12
Scope = Mapping[str, Type | None]


def estimated_cost(node: Node, types: Mapping[int, Type], variables: Mapping[str, Type]) -> float:
    """The worst cost; `types` are those the checker found, by id of the node. May be infinite."""
    return _Estimator(types, variables.get("self")).cost(node, variables)


class _Estimator:
    """One estimate. Sizes of what calls return are noted as they are met.

    A scope has the schema's types of variables; None for one that goes over what was computed.
    """

    def __init__(self, types: Mapping[int, Type], root: Type | None) -> None:
        self._types = types
        self._root = root
        self._sizes: dict[int, Size] = {}

    def cost(self, node: Node, scope: Scope) -> float:
        """What evaluating a node may cost."""
        match node:
            case Literal():
                return 0
            case Ident(name=name):
                return 0 if name in TYPE_NAMES and name not in scope else 1
            case Select(operand=operand, test=test):
                if dotted_name(node) in TYPE_NAMES:
                    return 0
                return self.cost(operand, scope) + (0 if test else 1)
            case ListOf(items=items):
                self._sizes[id(node)] = len(items)
                return 10 + sum(self.cost(one, scope) for one in items)
            case MapOf(entries=entries):
                self._sizes[id(node)] = len(entries)
                return 30 + sum(self.cost(key, scope) + self.cost(value, scope) for key, value, _ in entries)
            case Struct(fields=fields):
                return 40 + sum(self.cost(value, scope) for _, value, _ in fields)
            case Macro():
                return self._macro(node, scope)
            case Call():
                return self._call(node, scope)
        raise AssertionError(node)

    def _declared(self, node: Node, scope: Scope) -> Type | None:
        """The schema's type of what a node leads to; None when it was computed."""
        match node:
            case Ident(name=name):
                return scope.get(name)
            case Select(operand=operand, field=field, optional=False):
                outer = self._declared(operand, scope)
                if outer is None and not isinstance(operand, Ident | Select):
                    return self._root  # upstream takes what it has no place for as the whole value
                return None if outer is None or outer.kind != "object" else outer.fields.get(field)
            case Call(name="_[_]", args=[container, _]):
                outer = self._declared(container, scope)
                if outer is not None and outer.kind in ("list", "map"):
                    return outer.element if outer.kind == "list" else outer.mapped
        return None

    def _size(self, node: Node, scope: Scope) -> Size:
        """The most characters, items or entries of a value."""
        if isinstance(node, Literal):
            return len(node.value) if isinstance(node.value, (str, bytes)) else 1
        if isinstance(node, Ident) and node.name not in scope:
            return 1  # the name of a type
        known = self._sizes.get(id(node))
        if known is not None:
            return known
        if isinstance(node, Ident) and node.name in scope and scope[node.name] is None:
            return 0 if self._root is None else size_of(self._root)
        declared = self._declared(node, scope)
        if declared is not None:
            return size_of(declared)
        kind = self._types[id(node)].kind
        return 1 if kind in _SIZELESS else UNKNOWN

    def _call(self, node: Call, scope: Scope) -> float:
        name, target = node.name, node.target
        parts = [self.cost(one, scope) for one in node.args]
        if name in ("_&&_", "_||_"):
            return sum(parts)
        if name == "_?_:_":
            self._sizes[id(node)] = max(self._size(node.args[1], scope), self._size(node.args[2], scope))
            return parts[0] + max(parts[1], parts[2])
        if target is not None and dotted_name(target) in NAMESPACES:
            name, target = f"{dotted_name(target)}.{name}", None
        own = 0.0 if target is None else self.cost(target, scope)
        values = node.args if target is None else [target, *node.args]
        estimate: Callable[[Asked], Estimate] | None = CALLS.get(name)
        sizes = [self._size(one, scope) for one in values]
        found = Estimate(1)
        if estimate is not None:
            declared = self._declared(values[0], scope) if values else None
            item = UNKNOWN if declared is None or declared.kind != "list" else size_of(declared.element)
            found = estimate(Asked(values, sizes, [self._types[id(one)] for one in values], item))
        if found.size is not None:
            self._sizes[id(node)] = found.size
        return own + sum(parts) + found.cost

    def _macro(self, node: Macro, scope: Scope) -> float:
        target = self.cost(node.target, scope)
        inner = {**scope, **self._variables(node, scope)}
        bodies = sum(self.cost(one, inner) for one in node.args)
        if node.name in ("optMap", "optFlatMap"):
            return target * 2 + bodies + 14
        turns = self._size(node.target, scope)
        total = turns * (_TURN.get(node.name, _LIST_TURN) + bodies) if turns else 0.0
        if node.name == "sortBy":
            total += 2 * turns * (turns + 2) + 30
        if node.name not in ("all", "exists", "exists_one"):
            self._sizes[id(node)] = turns
        around = 1 if node.name in ("all", "exists", "exists_one") else 31 if "Map" in node.name else 11
        return target + total + around

    def _variables(self, node: Macro, scope: Scope) -> dict[str, Type | None]:
        """The schema's types of the variables of a comprehension. Keys and what was computed have none."""
        outer = self._declared(node.target, scope)
        found: dict[str, Type | None] = dict.fromkeys(node.variables)
        if node.name in ("optMap", "optFlatMap") or outer is None:
            return found
        if outer.kind == "list":
            found[node.variables[-1]] = outer.element
        elif outer.kind == "map" and len(node.variables) == 2:
            found[node.variables[-1]] = outer.mapped
        return found


# Equality of Kubernetes' own types is one step.
_SIZELESS: Final = frozenset(("bool", "int", "uint", "double", "timestamp", "duration", "null")) | frozenset(
    ("quantity", "ip", "cidr", "semver", "url", "format")
)


def size_of(found: Type) -> Size:
    """The most a value of a schema's type holds; 0 of those that have no length."""
    if found.size is not None:
        return found.size
    return UNKNOWN if found.kind in ("string", "bytes", "list", "map", "dyn") else 0
