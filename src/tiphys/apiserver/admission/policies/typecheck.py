"""What is wrong with a policy's expressions for the kinds it is about: advice, which its status shows.

A policy is accepted whatever types its objects have. For the built-in kinds that its rules name one by one, each
expression is checked with the types of their schema: `object.spec.replica` is then an undefined field.
https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tiphys.api.admissionregistration.v1 import ValidatingAdmissionPolicy
from tiphys.api.schemas import has_schema, schema_of
from tiphys.api.table import resource_by_path
from tiphys.apiserver.admission.policies.compiled import VARIABLES
from tiphys.machinery.cel.errors import CelSyntaxError
from tiphys.machinery.cel.program import compile_expression
from tiphys.machinery.cel.types import BOOL, BYTES, DOUBLE, DYN, INT, STRING, TIMESTAMP, Type, list_of, map_of
from tiphys.machinery.meta import GroupVersionKind
from tiphys.machinery.schema import FieldSchema, TypeSchema

MOST_KINDS: Final = 10
_SCALARS: Final[Mapping[str, Type]] = {
    "s": STRING,
    "y": BYTES,
    "t": TIMESTAMP,
    "u": TIMESTAMP,
    "i": INT,
    "l": INT,
    "f": DOUBLE,
    "b": BOOL,
}


class _Fields(Mapping[str, Type]):
    """A struct's fields, converted when they are asked for: some kinds contain themselves."""

    def __init__(self, schema: TypeSchema) -> None:
        self._schema = schema
        self._known: dict[str, Type] = {}

    def __getitem__(self, name: str) -> Type:
        if name not in self._known:
            # A keyword of the language is written between underscores; its plain form works after a dot.
            plain = name[2:-2] if name.startswith("__") and name.endswith("__") else name
            self._known[name] = _type_of(self._schema.fields[plain])
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        text = str(name)
        return text in self._schema.fields or (text[:2] == text[-2:] == "__" and text[2:-2] in self._schema.fields)

    def __iter__(self) -> Iterator[str]:
        return iter(self._schema.fields)

    def __len__(self) -> int:
        return len(self._schema.fields)


def _type_of(schema: FieldSchema) -> Type:
    if schema.kind == "[" and schema.items is not None:
        return list_of(_type_of(schema.items))
    if schema.kind == "{" and schema.items is not None:
        return map_of(STRING, _type_of(schema.items))
    if schema.type is not None:
        return Type("object", name=schema.type.name, fields=_Fields(schema.type))
    return _SCALARS.get(schema.kind, DYN)


def kinds_of(policy: ValidatingAdmissionPolicy) -> list[GroupVersionKind]:
    """The built-in kinds that the rules name, without wildcards; at most ten."""
    found: set[GroupVersionKind] = set()
    rules = policy.spec.match_constraints.resource_rules if policy.spec.match_constraints is not None else ()
    for rule in rules:
        if "*" in (*rule.api_groups, *rule.api_versions, *rule.resources):
            continue
        for group in rule.api_groups:
            for version in rule.api_versions:
                for plural in rule.resources:
                    resource = resource_by_path(group, version, plural)
                    if resource is not None and has_schema(group, version, resource.kind):
                        found.add(GroupVersionKind(group, version, resource.kind))
    return sorted(found)[:MOST_KINDS]


class PolicyTypeChecker:
    """Checks policies; keeps nothing."""

    def warnings(self, policy: ValidatingAdmissionPolicy) -> list[tuple[str, str]]:
        """Place and text of each problem, as `status.typeChecking` has them."""
        kinds = kinds_of(policy)
        found = []
        for place, source in _expressions(policy):
            text = "".join(self._problem(policy, kind, source) for kind in kinds)
            if text:
                found.append((place, text))
        return found

    def _problem(self, policy: ValidatingAdmissionPolicy, kind: GroupVersionKind, source: str) -> str:
        schema = schema_of(*kind)
        about = Type("object", name=schema.name, fields=_Fields(schema))
        scope = {**VARIABLES, "object": about, "oldObject": about}
        made: dict[str, Type] = {}
        for variable in policy.spec.variables:
            known = Type("object", name="kubernetes.variables", fields=dict(made))
            try:
                made[variable.name] = compile_expression(variable.expression, {**scope, "variables": known}).type
            except CelSyntaxError:
                made[variable.name] = DYN
        if made:
            scope["variables"] = Type("object", name="kubernetes.variables", fields=made)
        try:
            compile_expression(source, scope)
        except CelSyntaxError as error:
            return f"{kind.group}/{kind.version}, Kind={kind.kind}: {error}\n"
        return ""


def _expressions(policy: ValidatingAdmissionPolicy) -> Iterator[tuple[str, str]]:
    for i, validation in enumerate(policy.spec.validations):
        yield f"spec.validations[{i}].expression", validation.expression
        if validation.message_expression:
            yield f"spec.validations[{i}].messageExpression", validation.message_expression
