"""Whether the expressions of a policy compile: asked when the policy is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tiphys.apiserver.admission.policies.compiled import CONDITION_VARIABLES, VARIABLES
from tiphys.machinery import field
from tiphys.machinery.cel.errors import CelSyntaxError
from tiphys.machinery.cel.program import compile_expression
from tiphys.machinery.cel.types import Type
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")


BOOL: Final = ("bool",)
STRING: Final = ("string",)


def expression_errors(spec: Json) -> list[FieldError]:
    """Errors of every expression of a policy that is otherwise in order."""
    variables: dict[str, Type] = {}
    known = {**VARIABLES, "variables": Type("object", name="kubernetes.variables", fields=variables)}
    if spec.get("paramKind") is None:
        del known["params"]
    errors: list[FieldError] = []
    for index, one in enumerate(spec.get("variables") or ()):
        where = SPEC.child("variables").index(index).child("expression")
        found, kind = compiled_errors(one.get("expression", ""), where, known, ())
        errors += found
        variables[one.get("name", "")] = kind
    for where, source, wanted in _expressions(spec):
        errors += compiled_errors(source, where, known, wanted)[0]
    return errors


def condition_errors(source: str, where: Path) -> list[FieldError]:
    """Errors of a match condition of a webhook."""
    return compiled_errors(source, where, CONDITION_VARIABLES, BOOL)[0]


def _expressions(spec: Json) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    for index, one in enumerate(spec.get("matchConditions") or ()):
        yield SPEC.child("matchConditions").index(index).child("expression"), one.get("expression", ""), BOOL
    for index, one in enumerate(spec.get("validations") or ()):
        at = SPEC.child("validations").index(index)
        yield at.child("expression"), one.get("expression", ""), BOOL
        if one.get("messageExpression"):
            yield at.child("messageExpression"), one["messageExpression"], STRING
    for index, one in enumerate(spec.get("auditAnnotations") or ()):
        at = SPEC.child("auditAnnotations").index(index).child("valueExpression")
        yield at, one.get("valueExpression", ""), ("string", "null_type")
    for index, one in enumerate(spec.get("mutations") or ()):
        for name, wanted in (("applyConfiguration", "Object"), ("jsonPatch", "list(JSONPatch)")):
            if one.get(name):
                at = SPEC.child("mutations").index(index).child(name, "expression")
                yield at, one[name].get("expression", ""), (wanted,)


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
