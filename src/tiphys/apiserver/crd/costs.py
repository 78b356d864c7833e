"""What the rules of a schema may cost at worst, and what is said when that is too much.

A rule is asked for every value its schema has: once for each item of the lists and each entry of the maps around it.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#resource-use-by-validation-functions
"""

from __future__ import annotations

from typing import Final

from tiphys.machinery import field
from tiphys.machinery.cel.checker import Checker
from tiphys.machinery.cel.cost import estimated_cost
from tiphys.machinery.cel.program import Program
from tiphys.machinery.cel.types import Type
from tiphys.machinery.field import FieldError, Path

RULE_LIMIT: Final = 10_000_000
SCHEMA_LIMIT: Final = 100_000_000
NOTABLE: Final = SCHEMA_LIMIT // 100
SHOWN: Final = 4  # of the dearest rules, when all together cost too much
HINT: Final = (
    "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are "
    "declared)"
)
CONTRIBUTED: Final = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"


def worst_cost(program: Program, own: Type, old: Type) -> float:
    """The most one evaluation of a rule over `self` and `oldSelf` may cost; may be infinite."""
    variables = {"self": own, "oldSelf": old}
    checker = Checker(program.source)
    checker.type_of(program.node, variables)
    return estimated_cost(program.node, checker.types, variables)


class Costs:
    """The costs of the rules of one schema, added up."""

    def __init__(self) -> None:
        self._found: list[tuple[float, Path]] = []

    def take(self, cost: float, path: Path, kind: str) -> list[FieldError]:
        """Count a rule or message expression (`kind` is "rule" or "messageExpression") that is at `path`."""
        self._found.append((cost, path))
        if cost <= RULE_LIMIT:
            return []
        detail = f"estimated {kind} cost exceeds budget by factor of {_factor(cost / RULE_LIMIT)} {HINT}"
        return [field.forbidden(path, detail)]

    def total_errors(self, path: Path) -> list[FieldError]:
        """What is wrong with all of them together, in the schema at `path`."""
        total = sum(cost for cost, _ in self._found)
        if total <= SCHEMA_LIMIT:
            return []
        dearest = sorted((one for one in self._found if one[0] >= NOTABLE), key=lambda one: -one[0])[:SHOWN]
        errors = [field.forbidden(where, CONTRIBUTED) for _, where in dearest]
        detail = (
            "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor "
            f"of {_factor(total / SCHEMA_LIMIT)} {HINT}"
        )
        return [*errors, field.forbidden(path, detail)]


def _factor(factor: float) -> str:
    if factor > 100:
        return "more than 100x"
    return f"{factor:f}x" if factor < 1.5 else f"{factor:.1f}x"  # never 1.0x, which would be no excess
