"""Whether the expressions of a policy compile: asked when the policy is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tiphys.apiserver.admission.policies.compiled import CONDITION_VARIABLES, VARIABLES
from tiphys.machinery import field
from tiphys.machinery.cel.errors import CelSyntaxError
from tiphys.machinery.cel.program import compile_expression
from tiphys.machinery.cel.types import Type
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

BOOL: Final = ("bool",)
STRING: Final = ("string",)
AUDITED: Final = ("string", "null_type")
MUTATIONS: Final = {"applyConfiguration": ("Object",), "jsonPatch": ("list(JSONPatch)",)}


class PolicyExpressions:
    """The expressions of one policy, judged in the order in which it has them: variables know those before them."""

    def __init__(self, spec: Json, *, mutating: bool) -> None:
        self._own: dict[str, Type] = {}
        self._plain = {name: kind for name, kind in VARIABLES.items() if name != "variables"}
        if spec.get("paramKind") is None:
            del self._plain["params"]
        self._known = dict(self._plain)
        if mutating or spec.get("variables"):
            self._known["variables"] = Type("object", name="kubernetes.variables", fields=self._own)

    def condition(self, source: str, where: Path) -> list[FieldError]:
        """Errors of a match condition; variables are not there yet."""
        return compiled_errors(source, where, self._plain, BOOL)[0]

    def variable(self, name: str, source: str, where: Path) -> list[FieldError]:
        """Errors of the expression of a variable. `name`: what those after it call it, "" for none."""
        errors, kind = compiled_errors(source, where, self._known, ())
        if name:
            self._own[name] = kind
        return errors

    def value(self, source: str, where: Path, wanted: tuple[str, ...]) -> list[FieldError]:
        """Errors of any other expression. `wanted`: the types it may have."""
        return compiled_errors(source, where, self._known, wanted)[0]


def condition_errors(source: str, where: Path) -> list[FieldError]:
    """Errors of a match condition of a webhook."""
    return compiled_errors(source, where, CONDITION_VARIABLES, BOOL)[0]


def compiled_errors(
    source: str, where: Path, variables: Mapping[str, Type], wanted: tuple[str, ...]
) -> tuple[list[FieldError], Type]:
    """What is wrong with an expression, and its type. `wanted`: the types it may have; none: any."""
    try:
        program = compile_expression(source, variables)
    except CelSyntaxError as error:
        return [field.invalid(where, source, f"compilation failed: {error}")], Type("dyn")
    found = {"null": "null_type"}.get(str(program.type), str(program.type))
    if not wanted or found in (*wanted, "dyn", "list(dyn)"):
        return [], program.type
    shown = f"one of [{' '.join(wanted)}]" if len(wanted) > 1 else wanted[0]
    return [field.invalid(where, source, f"must evaluate to {shown} but got {found}")], program.type
