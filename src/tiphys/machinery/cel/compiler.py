"""Syntax tree to closures, one a node, that count what they cost as cel-go counts.

A closure takes the `State` of one evaluation. Costs: a variable or field 1, a list 10, a map 30, a struct 40, a call 1
or a tenth of the characters it reads; a comprehension what its body costs each time, and what keeps its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from tiphys.machinery.cel.ast import Call, Ident, ListOf, Literal, Macro, MapOf, Node, Select, Struct
from tiphys.machinery.cel.errors import CostError, EvalError
from tiphys.machinery.cel.library import FUNCTIONS, METHODS
from tiphys.machinery.cel.parser import dotted_name
from tiphys.machinery.cel.runcosts import COSTS, read, size
from tiphys.machinery.cel.signatures import NAMESPACES, TYPE_NAMES
from tiphys.machinery.cel.values import NONE, CelType, Optional, equal, no_overload

OVER_BUDGET: Final = "operation cancelled: actual cost limit exceeded"


class State:
    """One evaluation: its variables, what it has cost, what it may cost."""

    __slots__ = ("cost", "limit", "variables")

    def __init__(self, variables: Mapping[str, Any], limit: int) -> None:
        self.variables: dict[str, Any] = dict(variables)
        self.cost = 0
        self.limit = limit

    def spend(self, cost: int) -> None:
        """Count a cost. CostError when it is too much."""
        self.cost += cost
        if self.cost > self.limit:
            raise CostError(OVER_BUDGET)


Step = Callable[[State], Any]
_MISSING: Final = object()


def compile_node(node: Node) -> Step:
    """The closure of a node."""
    match node:
        case Literal(value=value):
            return lambda _: value
        case Ident(name=name):
            return _ident(name)
        case Select():
            return _select(node)
        case ListOf():
            return _list(node)
        case MapOf():
            return _map(node)
        case Struct():
            return _struct(node)
        case Macro():
            return _macro(node)
        case Call():
            return _call(node)
    raise AssertionError(node)


def _ident(name: str) -> Step:
    known = CelType({"timestamp": "google.protobuf.Timestamp"}.get(name, name)) if name in TYPE_NAMES else None

    def step(state: State) -> Any:
        state.spend(1)
        found = state.variables.get(name, _MISSING)
        if found is _MISSING:
            if known is not None:
                return known
            raise EvalError(f"no such attribute(s): {name}")
        return found() if type(found) is Lazy else found

    return step


class Lazy:
    """A variable that is worked out when it is first asked for, and whose error is remembered."""

    __slots__ = ("_error", "_make", "_value")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._value: Any = _MISSING
        self._error: EvalError | None = None

    def __call__(self) -> Any:
        if self._error is not None:
            raise self._error
        if self._value is _MISSING:
            try:
                self._value = self._make()
            except EvalError as error:
                self._error = error
                raise
        return self._value


def _field(value: Any, name: str) -> Any:
    """A field of a map or object; _MISSING without one."""
    if isinstance(value, dict):
        found = value.get(name, _MISSING)
        return found() if type(found) is Lazy else found
    if isinstance(value, list):
        raise EvalError("unsupported index type 'string' in list")
    found = getattr(value, "cel_fields", None)
    return _MISSING if found is None else found.get(name, _MISSING)


def _select(node: Select) -> Step:
    name = node.field
    if dotted_name(node) in TYPE_NAMES:
        constant = CelType(dotted_name(node))
        return lambda _: constant
    operand = compile_node(node.operand)

    def plain(state: State) -> Any:
        value = operand(state)
        state.spend(1)
        if type(value) is dict:
            found = value.get(name, _MISSING)
            if type(found) is Lazy:
                found = found()
        elif isinstance(value, Optional):
            return _optional_field(value, name)
        else:
            found = _field(value, name)
        if found is _MISSING:
            raise EvalError(f"no such key: {name}")
        return found

    def test(state: State) -> bool:
        value = operand(state)
        state.spend(1)
        if isinstance(value, Optional):
            return value.present and _field(value.value, name) is not _MISSING
        return _field(value, name) is not _MISSING

    def optional(state: State) -> Any:
        value = operand(state)
        state.spend(1)
        return _optional_field(value if isinstance(value, Optional) else Optional(value), name)

    return test if node.test else optional if node.optional else plain


def _optional_field(value: Optional, name: str) -> Optional:
    if not value.present:
        return NONE
    found = _field(value.value, name)
    return NONE if found is _MISSING else Optional(found)


def _optional(value: Any) -> Optional:
    if isinstance(value, Optional):
        return value
    raise no_overload()


def _list(node: ListOf) -> Step:
    steps = [(compile_node(one), index in node.optional) for index, one in enumerate(node.items)]

    def step(state: State) -> list[Any]:
        state.spend(10)
        out = []
        for make, optional in steps:
            value = make(state)
            if not optional:
                out.append(value)
            elif _optional(value).present:
                out.append(value.value)
        return out

    return step


def _map(node: MapOf) -> Step:
    steps = [(compile_node(key), compile_node(value), optional) for key, value, optional in node.entries]

    def step(state: State) -> dict[Any, Any]:
        state.spend(30)
        out: dict[Any, Any] = {}
        for make_key, make, optional in steps:
            key, value = make_key(state), make(state)
            if not optional:
                out[key] = value
            elif _optional(value).present:
                out[key] = value.value
        return out

    return step


def _struct(node: Struct) -> Step:
    steps = [(name, compile_node(value), optional) for name, value, optional in node.fields]

    def step(state: State) -> dict[str, Any]:
        state.spend(40)
        out: dict[str, Any] = {}
        for name, make, optional in steps:
            value = make(state)
            if not optional:
                out[name] = value
            elif _optional(value).present:
                out[name] = value.value
        return out

    return step


# --- calls ----------------------------------------------------------------------------------------
def _call(node: Call) -> Step:
    name, args = node.name, [compile_node(one) for one in node.args]
    if node.target is None:
        special = _SPECIAL.get(name)
        if special is not None:
            return special(*args)
        return _function(FUNCTIONS[name], args, name)
    space = dotted_name(node.target)
    if space in NAMESPACES and f"{space}.{name}" in FUNCTIONS:
        return _function(FUNCTIONS[f"{space}.{name}"], args, f"{space}.{name}")
    target = compile_node(node.target)
    if name in ("or", "orValue"):
        return _or_value(target, args[0], unwrap=name == "orValue")
    return _function(METHODS[name], [target, *args], name)


def _function(call: Callable[..., Any], args: list[Step], name: str) -> Step:
    misfit = f"no such overload: {name}" if name[0].isalpha() else "no such overload"
    cost = COSTS.get(name)
    if cost is not None:
        return _costly(call, args, cost, misfit)
    if len(args) == 2:
        first, second = args

        def binary(state: State) -> Any:
            a, b = first(state), second(state)
            state.spend((read(a) + read(b)) or 1)
            return _apply(call, (a, b), misfit)

        return binary

    def step(state: State) -> Any:
        values = [one(state) for one in args]
        state.spend(sum(read(value) for value in values) or 1)
        return _apply(call, values, misfit)

    return step


def _costly(call: Callable[..., Any], args: list[Step], cost: Callable[[Sequence[Any]], int], misfit: str) -> Step:
    def step(state: State) -> Any:
        values = [one(state) for one in args]
        try:
            spent = cost(values)
        except _MISFITS:
            raise EvalError(misfit) from None
        state.spend(spent)
        return _apply(call, values, misfit)

    return step


# What a function of the library says to a dynamic value that is not of its types. Only the function itself runs
# then: its arguments have been worked out before.
_MISFITS: Final = (TypeError, AttributeError, LookupError, ValueError)


def _apply(call: Callable[..., Any], values: Sequence[Any], misfit: str) -> Any:
    try:
        return call(*values)
    except _MISFITS:
        raise EvalError(misfit) from None
    except EvalError as error:
        if str(error) == "no such overload":
            raise EvalError(misfit) from None
        raise


def _and(left: Step, right: Step) -> Step:
    """false && error is false, in whatever order."""

    def step(state: State) -> bool:
        try:
            if not _bool(left(state)):
                return False
        except CostError:
            raise
        except EvalError:
            if not _bool(right(state)):
                return False
            raise
        return _bool(right(state))

    return step


def _or(left: Step, right: Step) -> Step:
    def step(state: State) -> bool:
        try:
            if _bool(left(state)):
                return True
        except CostError:
            raise
        except EvalError:
            if _bool(right(state)):
                return True
            raise
        return _bool(right(state))

    return step


def _bool(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise no_overload()


def _conditional(condition: Step, then: Step, otherwise: Step) -> Step:
    return lambda state: then(state) if _bool(condition(state)) else otherwise(state)


def _equals(left: Step, right: Step) -> Step:
    def step(state: State) -> bool:
        a, b = left(state), right(state)
        state.spend(min(size(a), size(b)))
        return equal(a, b)

    return step


def _differs(left: Step, right: Step) -> Step:
    same = _equals(left, right)
    return lambda state: not same(state)


_SPECIAL: Final[dict[str, Callable[..., Step]]] = {
    "_&&_": _and,
    "_||_": _or,
    "_?_:_": _conditional,
    "_==_": _equals,
    "_!=_": _differs,
}


def _or_value(target: Step, other: Step, *, unwrap: bool) -> Step:
    def step(state: State) -> Any:
        found = target(state)
        state.spend(1)
        if not isinstance(found, Optional):
            raise no_overload()
        if found.present:
            return found.value if unwrap else found
        return other(state)

    return step


# --- macros ---------------------------------------------------------------------------------------
# The loops that macros stand for keep a result, which is read, added to (by a list of one) and asked about.
_TURN: Final = {"all": 3, "exists": 4, "exists_one": 0, "transformMap": 3, "transformMapEntry": 2}
_LIST_TURN: Final = 12


def _macro(node: Macro) -> Step:
    target = compile_node(node.target)
    steps = [compile_node(one) for one in node.args]
    if node.name in ("optMap", "optFlatMap"):
        return _opt_map(target, node.variables[0], steps[0], flat=node.name == "optFlatMap")
    condition = steps[0] if node.name in ("all", "exists", "exists_one", "filter") or len(steps) == 2 else None
    body = steps[-1]
    loop = _Loop(target, node.variables, _TURN.get(node.name, _LIST_TURN))
    match node.name:
        case "all":
            return lambda state: _quantified(loop, state, body, until=False)
        case "exists":
            return lambda state: _quantified(loop, state, body, until=True)
        case "exists_one":
            return lambda state: sum(_bool(body(state)) for _ in loop.turns(state)) == 1
        case "filter":
            return lambda state: [value for value in loop.turns(state) if _bool(body(state))]
        case "sortBy":
            return lambda state: _sorted_by(loop, state, body)
        case "map" | "transformList":
            return lambda state: [
                body(state) for _ in loop.turns(state) if condition is None or _bool(condition(state))
            ]
        case "transformMap":
            return lambda state: {
                key: body(state) for key in loop.turns(state) if condition is None or _bool(condition(state))
            }
    return lambda state: _entries(loop, state, condition, body)


def _sorted_by(loop: _Loop, state: State, key: Step) -> list[Any]:
    """The items in the order of what the body makes of each."""
    items = [(key(state), item) for item in loop.turns(state)]
    order = FUNCTIONS["_<=_"]
    for (one, _), (other, _) in pairwise(items):
        order(one, other)  # refuses what has no order
    return [item for _, item in sorted(items, key=lambda pair: pair[0])]


def _entries(loop: _Loop, state: State, condition: Step | None, body: Step) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for _ in loop.turns(state):
        if condition is None or _bool(condition(state)):
            made = body(state)
            if not isinstance(made, dict):
                raise no_overload()
            for key, value in made.items():
                if key in out:
                    raise EvalError(f"insert failed: key {key} already exists")
                out[key] = value
    return out


class _Loop:
    """The turns of a comprehension: each binds the variables."""

    def __init__(self, target: Step, names: tuple[str, ...], cost: int) -> None:
        """`cost`: what a turn costs besides its body."""
        self._target = target
        self.names = names
        self._cost = cost

    def turns(self, state: State) -> Iterator[Any]:
        """What each turn is about: the item, a map's key."""
        value = self._target(state)
        variables, names = state.variables, self.names
        before = {name: variables[name] for name in names if name in variables}
        try:
            for found in _items(value, len(names)):
                state.spend(self._cost)
                for name, one in zip(names, found, strict=True):
                    variables[name] = one
                yield found[0]
        finally:
            for name in names:
                variables.pop(name, None)
            variables.update(before)


def _items(value: Any, count: int) -> Any:
    if isinstance(value, list):
        return enumerate(value) if count == 2 else ((one,) for one in value)
    if isinstance(value, dict):
        return value.items() if count == 2 else ((key,) for key in value)
    raise no_overload()


def _quantified(loop: _Loop, state: State, body: Step, *, until: bool) -> bool:
    """all() and exists(): an error counts only when no other turn decides."""
    failed: EvalError | None = None
    turns = loop.turns(state)
    try:
        for _ in turns:
            try:
                if _bool(body(state)) is until:
                    return until
            except CostError:
                raise
            except EvalError as error:
                failed = error
    finally:
        turns.close()  # type: ignore[attr-defined]  # a generator: gives the variables back at once
    if failed is not None:
        raise failed
    return not until


def _opt_map(target: Step, name: str, body: Step, *, flat: bool) -> Step:
    def step(state: State) -> Any:
        found = _optional(target(state))
        if not found.present:
            return NONE
        before = state.variables.get(name, _MISSING)
        state.variables[name] = found.value
        try:
            value = body(state)
        finally:
            state.variables.pop(name)
            if before is not _MISSING:
                state.variables[name] = before
        return value if flat else Optional(value)

    return step
