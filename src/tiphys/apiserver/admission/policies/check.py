"""Whether the expressions of a policy compile: asked when the policy is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tiphys.apiserver.admission.policies.compiled import VARIABLES
from tiphys.apiserver.cel.errors import CelSyntaxError
from tiphys.apiserver.cel.program import compile_expression
from tiphys.apiserver.cel.types import Type
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")


def expression_errors(spec: Json) -> list[FieldError]:
    """Errors of every expression of a policy that is otherwise in order."""
    variables: dict[str, Type] = {}
    errors: list[FieldError] = []
    for index, one in enumerate(spec.get("variables") or ()):
        where = SPEC.child("variables").index(index).child("expression")
        found, kind = _compiled(one.get("expression", ""), where, variables, ())
        errors += found
        variables[one.get("name", "")] = kind
    for where, source, wanted in _expressions(spec):
        errors += _compiled(source, where, variables, wanted)[0]
    return errors


def _expressions(spec: Json) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    for index, one in enumerate(spec.get("matchConditions") or ()):
        yield SPEC.child("matchConditions").index(index).child("expression"), one.get("expression", ""), ("bool",)
    for index, one in enumerate(spec.get("validations") or ()):
        at = SPEC.child("validations").index(index)
        yield at.child("expression"), one.get("expression", ""), ("bool",)
        if one.get("messageExpression"):
            yield at.child("messageExpression"), one["messageExpression"], ("string",)
    for index, one in enumerate(spec.get("auditAnnotations") or ()):
        at = SPEC.child("auditAnnotations").index(index).child("valueExpression")
        yield at, one.get("valueExpression", ""), ("string", "null")
    for index, one in enumerate(spec.get("mutations") or ()):
        for name in ("applyConfiguration", "jsonPatch"):
            if one.get(name):
                at = SPEC.child("mutations").index(index).child(name, "expression")
                yield at, one[name].get("expression", ""), ()


def _compiled(
    source: str, where: Path, variables: Mapping[str, Type], wanted: tuple[str, ...]
) -> tuple[list[FieldError], Type]:
    known = {**VARIABLES, "variables": Type("object", name="kubernetes.variables", fields=variables)}
    try:
        program = compile_expression(source, known)
    except CelSyntaxError as error:
        return [field.invalid(where, source, f"compilation failed: {error}")], Type("dyn")
    if wanted and program.type.kind not in (*wanted, "dyn"):
        shown = " or ".join(wanted)
        return [field.invalid(where, source, f"must evaluate to {shown}")], program.type
    return [], program.type
