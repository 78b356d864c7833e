"""Program: an expression ready to be evaluated again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tiphys.machinery.cel.ast import Node
from tiphys.machinery.cel.checker import check
from tiphys.machinery.cel.compiler import State, Step, compile_node
from tiphys.machinery.cel.constants import folding_problem
from tiphys.machinery.cel.errors import CelProgramError, CelSyntaxError, EvalError
from tiphys.machinery.cel.parser import parse
from tiphys.machinery.cel.types import Type

# What one expression may cost when it is evaluated (KEP-2876).
PER_CALL_LIMIT: Final = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A compiled expression. `type` is what it gives; `node` its tree, for those who ask what it mentions."""

    source: str
    type: Type
    node: Node
    step: Step

    def evaluate(self, variables: Mapping[str, Any], limit: int = PER_CALL_LIMIT) -> Any:
        """The value. EvalError, CostError."""
        return self.run(variables, limit)[0]

    def run(self, variables: Mapping[str, Any], limit: int = PER_CALL_LIMIT) -> tuple[Any, int]:
        """The value and what it cost. EvalError, CostError."""
        state = State(variables, limit)
        try:
            return self.step(state), state.cost
        except RecursionError:
            raise EvalError("expression is nested too deeply") from None
        except OverflowError:
            raise EvalError("integer overflow") from None


def compile_expression(source: str, variables: Mapping[str, Type]) -> Program:
    """Parse, check and compile. Raises CelSyntaxError with every problem and its place."""
    try:
        node = parse(source)
        found = check(source, node, variables)
        problem = folding_problem(node)
        if problem:
            raise CelProgramError(problem)
        return Program(source, found, node, compile_node(node))
    except RecursionError:
        raise CelSyntaxError("expression recursion limit exceeded") from None
