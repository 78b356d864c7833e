"""What can be told of constant arguments before an expression runs: patterns, times, formats, conversions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tiphys.machinery.cel import times
from tiphys.machinery.cel.ast import Call, ListOf, Literal, Node
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.formatting import ACCEPTS, Clause, parts, refusal
from tiphys.machinery.cel.library import FUNCTIONS
from tiphys.machinery.cel.regex import compiled
from tiphys.machinery.cel.tree import children
from tiphys.machinery.cel.types import Type

Problem = tuple[int, str]
_CONVERSIONS: Final = frozenset({"int", "uint", "double", "bool", "string", "bytes"})
_LONGEST: Final = 2**63 // 1000  # microseconds of a duration: nanoseconds have 64 bits


def argument_problems(node: Call, types: Mapping[int, Type]) -> Iterator[Problem]:
    """What is wrong with constant arguments of a call; `types` are those of nodes, by id."""
    if node.name in ("timestamp", "duration") and node.target is None and len(node.args) == 1:
        argument = node.args[0]
        if (
            isinstance(argument, Literal)
            and isinstance(argument.value, str)
            and not _is_time(node.name, argument.value)
        ):
            yield argument.at, f"invalid {node.name} argument"
    elif node.name == "matches" and node.target is not None and len(node.args) == 1:
        argument = node.args[0]
        if isinstance(argument, Literal) and isinstance(argument.value, str) and _pattern_problem(argument.value):
            yield argument.at, "invalid matches argument"
    elif node.name == "format" and node.args and isinstance(node.args[0], ListOf):
        literal = node.target
        if isinstance(literal, Literal) and isinstance(literal.value, str):
            yield from _format_problems(node.at, literal.value, node.args[0], types)


def _is_time(kind: str, text: str) -> bool:
    try:
        if kind == "timestamp":
            times.timestamp(text)
            return True
        return abs(times.duration(text).total_seconds()) * 1e6 < _LONGEST
    except EvalError:
        return False


def _pattern_problem(pattern: str) -> str:
    try:
        compiled(pattern)
    except EvalError as error:
        return str(error)
    return ""


def _format_problems(at: int, text: str, given: ListOf, types: Mapping[int, Type]) -> Iterator[Problem]:
    try:
        clauses: list[Clause] = [part for part in parts(text) if not isinstance(part, str)]
    except EvalError as error:
        yield at, str(error)
        return
    for index, (clause, _) in enumerate(clauses):
        if index >= len(given.items):
            yield at, f"index {index} out of range"
            return
        item = given.items[index]
        found = types[id(item)]
        kind = "null_type" if found.kind == "null" else str(found).partition("(")[0]
        if not found.is_dyn and kind not in ACCEPTS[clause][0]:
            yield item.at, refusal(clause, kind)
            return
        if clause in "fe" and found.kind in ("int", "uint", "bool"):
            yield item.at, refusal(clause, found.kind)
            return
    if len(clauses) < len(given.items):
        problem = f"too many arguments supplied to string.format (expected {len(clauses)}, got {len(given.items)})"
        yield at, problem


def folding_problem(node: Node) -> str:
    """Why a call with constant arguments only can never give a value; "" when none is like that."""
    for one in children(node):
        problem = folding_problem(one)
        if problem:
            return problem
    if not isinstance(node, Call) or not node.args or not isinstance(node.args[-1], Literal):
        return ""
    value = node.args[-1].value
    if node.target is None and node.name in _CONVERSIONS and len(node.args) == 1:
        try:
            FUNCTIONS[node.name](value)
        except EvalError as error:
            return str(error)
    pattern = node.target is not None and node.name in ("find", "findAll") and node.args[0]
    if node.target is None and node.name == "matches":
        pattern = node.args[-1]
    if isinstance(pattern, Literal) and isinstance(pattern.value, str):
        return _pattern_problem(pattern.value)
    return ""
