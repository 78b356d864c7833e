"""Policies compiled: each expression once a version of its policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.apiserver.admission.webhooks.matching import GROUP, Hook
from tiphys.apiserver.registry.strategy import Reader
from tiphys.machinery.cel.errors import CelSyntaxError
from tiphys.machinery.cel.program import Program, compile_expression
from tiphys.machinery.cel.types import DYN, STRING, Type
from tiphys.machinery.selectors import LabelSelector

Json = Mapping[str, Any]

_GVK: Final = {"group": STRING, "version": STRING, "kind": STRING}
_GVR: Final = {"group": STRING, "version": STRING, "resource": STRING}
_USER: Final = {
    "username": STRING,
    "uid": STRING,
    "groups": Type("list", (STRING,)),
    "extra": Type("map", (STRING, Type("list", (STRING,)))),
}
REQUEST: Final = Type(
    "object",
    name="kubernetes.AdmissionRequest",
    fields={
        "kind": Type("object", name="kubernetes.GroupVersionKind", fields=_GVK),
        "resource": Type("object", name="kubernetes.GroupVersionResource", fields=_GVR),
        "subResource": STRING,
        "requestKind": Type("object", name="kubernetes.GroupVersionKind", fields=_GVK),
        "requestResource": Type("object", name="kubernetes.GroupVersionResource", fields=_GVR),
        "requestSubResource": STRING,
        "name": STRING,
        "namespace": STRING,
        "operation": STRING,
        "userInfo": Type("object", name="kubernetes.UserInfo", fields=_USER),
        "dryRun": Type("bool"),
        "options": DYN,
    },
)
VARIABLES: Final[Mapping[str, Type]] = {
    "object": DYN,
    "oldObject": DYN,
    "request": REQUEST,
    "params": DYN,
    "namespaceObject": DYN,
    "variables": DYN,
    "authorizer": Type("authorizer"),
}


# What the match conditions of webhooks may mention.
CONDITION_VARIABLES: Final[Mapping[str, Type]] = {
    name: VARIABLES[name] for name in ("object", "oldObject", "request", "authorizer")
}


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """One expression of a policy: compiled, or with the problem it has."""

    source: str
    program: Program | None
    problem: str = ""


def expression(source: str, variables: Mapping[str, Type] = VARIABLES) -> Expression:
    """Compile one."""
    try:
        return Expression(source, compile_expression(source, variables))
    except CelSyntaxError as error:
        return Expression(source, None, f"compilation error: compilation failed: {error}")


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """One validation, or one mutation (`kind` is its patch type)."""

    spec: Json
    test: Expression
    message: Expression | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A policy with its expressions."""

    name: str
    spec: Json
    constraints: Hook
    excluded: Hook | None
    conditions: Sequence[Expression]
    variables: Sequence[tuple[str, Expression]]
    validations: Sequence[Validation]
    audits: Sequence[tuple[str, Expression]]
    mutations: Sequence[tuple[str, Expression]]

    @property
    def ignores_failures(self) -> bool:
        return self.spec.get("failurePolicy") == "Ignore"


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """Where a policy holds. `matches` None: wherever the policy does."""

    name: str
    spec: Json
    matches: Hook | None = None
    excluded: Hook | None = None


@dataclass(slots=True)
class _Known:
    source: Json
    value: Any


def policy_of(obj: Json) -> Policy:
    """Compile a policy."""
    spec = obj.get("spec") or {}
    name = obj["metadata"]["name"]
    constraints = spec.get("matchConstraints") or {}
    return Policy(
        name,
        spec,
        _hook(name, constraints, "resourceRules"),
        _hook(name, constraints, "excludeResourceRules") if constraints.get("excludeResourceRules") else None,
        [expression(one.get("expression", "")) for one in spec.get("matchConditions") or ()],
        [(one["name"], expression(one.get("expression", ""))) for one in spec.get("variables") or ()],
        [
            Validation(
                one,
                expression(one.get("expression", "")),
                expression(one["messageExpression"]) if one.get("messageExpression") else None,
            )
            for one in spec.get("validations") or ()
        ],
        [(one["key"], expression(one.get("valueExpression", ""))) for one in spec.get("auditAnnotations") or ()],
        [_mutation(one) for one in spec.get("mutations") or ()],
    )


def _mutation(one: Json) -> tuple[str, Expression]:
    kind = one.get("patchType", "")
    source = one.get("applyConfiguration" if kind == "ApplyConfiguration" else "jsonPatch") or {}
    return kind, expression(source.get("expression", ""))


def _hook(name: str, constraints: Json, rules: str) -> Hook:
    given = {"rules": constraints.get(rules) or (), "matchPolicy": constraints.get("matchPolicy")}
    return Hook(
        (name, 0),
        name,
        given,
        LabelSelector.of_dict(constraints.get("namespaceSelector") or {}),
        LabelSelector.of_dict(constraints.get("objectSelector") or {}),
    )


_EVERYTHING: Final = (
    {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*", "*/*"], "scope": "*"},
)


def binding_of(obj: Json) -> Binding:
    """Read a binding."""
    spec, name = obj.get("spec") or {}, obj["metadata"]["name"]
    matches = spec.get("matchResources")
    if matches is None:
        return Binding(name, spec)
    narrowed = {**matches, "resourceRules": matches.get("resourceRules") or _EVERYTHING}
    excluded = _hook(name, matches, "excludeResourceRules") if matches.get("excludeResourceRules") else None
    return Binding(name, spec, _hook(name, narrowed, "resourceRules"), excluded)


@dataclass(slots=True)
class Policies:
    """The policies of one kind and their bindings, each compiled once."""

    reader: Reader
    policies: str
    bindings: str
    _known: dict[str, dict[str, _Known]] = field(default_factory=lambda: {"policy": {}, "binding": {}})

    def all(self) -> Iterator[tuple[Policy, list[Binding]]]:
        """Every policy that has a binding, by name, with its bindings by name."""
        bindings = self.reader.list(GROUP, self.bindings)
        if not bindings:
            return
        by_policy: dict[str, list[Binding]] = {}
        for binding in self._compiled("binding", bindings, binding_of):
            by_policy.setdefault(binding.spec.get("policyName", ""), []).append(binding)
        for policy in self._compiled("policy", self.reader.list(GROUP, self.policies), policy_of):
            if policy.name in by_policy:
                yield policy, by_policy[policy.name]

    def _compiled(self, kind: str, objects: Sequence[Json], make: Any) -> list[Any]:
        known, current = self._known[kind], {}
        for obj in objects:
            name = obj["metadata"]["name"]
            found = known.get(name)
            if found is None or found.source is not obj:
                found = _Known(obj, make(obj))
            current[name] = found
        self._known[kind] = current
        return [one.value for one in current.values()]
