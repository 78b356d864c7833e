"""x-kubernetes-validations: rules in CEL, compiled with a definition and asked about every write.

A rule that mentions `oldSelf` is a transition rule: it is asked only when there was a value before. Other rules are not
asked about a value that has not changed (ratcheting), so that a stricter definition does not lock old objects up.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.apiserver.crd.celtypes import Convert, cel_type, converter
from tiphys.apiserver.crd.structural import Structural
from tiphys.apiserver.crd.validation import NEW, before
from tiphys.machinery import field as errors
from tiphys.machinery.cel.compiler import OVER_BUDGET
from tiphys.machinery.cel.errors import CelSyntaxError, CostError, EvalError
from tiphys.machinery.cel.program import PER_CALL_LIMIT, Program, compile_expression
from tiphys.machinery.cel.tree import mentions
from tiphys.machinery.cel.types import Type, optional_of
from tiphys.machinery.cel.values import NONE, Optional
from tiphys.machinery.field import FieldError, Path

# What all rules of one object may cost (KEP-2876).
OBJECT_LIMIT: Final = 10_000_000
NO_MATCH: Final = "call arguments did not match a supported operator, function or macro signature"
OUT_OF_BUDGET: Final = "validation failed due to running out of cost budget, no further validation rules will be run"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule, compiled."""

    spec: Mapping[str, Any]
    program: Program
    message: Program | None
    transition: bool

    @property
    def optional_old(self) -> bool:
        return bool(self.spec.get("optionalOldSelf"))

    @property
    def text(self) -> str:
        """How errors name the rule."""
        return str(self.spec.get("message") or self.spec.get("rule") or "").strip()


@dataclass(slots=True, eq=False)
class Ruled:
    """The rules at one node of a schema and below it."""

    schema: Structural
    rules: list[Rule] = field(default_factory=list)
    convert: Convert | None = None
    properties: dict[str, Ruled] = field(default_factory=dict)
    items: Ruled | None = None
    additional: Ruled | None = None


class RuleError(ValueError):
    """A rule that does not compile: the index of the rule, its field, what was written there, and the problem."""

    def __init__(self, index: int, where: str, value: str, problem: str) -> None:
        super().__init__(problem)
        self.index = index
        self.where = where
        self.value = value


def compile_rules(node: Structural, *, resource: bool = False, messages: bool = True) -> Ruled | None:
    """The rules of a schema; None without any. Raises RuleError; not for messages when they do not matter."""
    if not node.has_rules:
        return None
    found = Ruled(node)
    specs = node.raw.get("x-kubernetes-validations") or ()
    if specs:
        own = cel_type(node, resource=resource)
        found.convert = converter(node)
        found.rules = [_lenient(index, spec, own, messages) for index, spec in enumerate(specs)]
    for name, one in node.properties.items():
        inner = compile_rules(one, resource=one.embedded, messages=messages)
        if inner is not None:
            found.properties[name] = inner
    if node.items is not None:
        found.items = compile_rules(node.items, resource=node.items.embedded, messages=messages)
    if node.additional is not None:
        found.additional = compile_rules(node.additional, messages=messages)
    return found


def _lenient(index: int, spec: Mapping[str, Any], own: Type, messages: bool) -> Rule:
    try:
        return compile_rule(index, spec, own)
    except RuleError as error:
        if messages or error.where == "rule":
            raise
    return compile_rule(index, {**spec, "messageExpression": ""}, own)


def old_type(spec: Mapping[str, Any], own: Type) -> Type:
    """The type of `oldSelf` in a rule over values of a type."""
    return optional_of(own) if spec.get("optionalOldSelf") else own


def compile_rule(index: int, spec: Mapping[str, Any], own: Type) -> Rule:
    """One rule over values of a type. Raises RuleError."""
    variables = {"self": own, "oldSelf": old_type(spec, own)}
    source = spec.get("rule") or ""
    try:
        program = compile_expression(source, variables)
    except CelSyntaxError as error:
        raise RuleError(index, "rule", source, error.said()) from None
    if program.type.kind != "bool":
        raise RuleError(index, "rule", source, "cel expression must evaluate to a bool")
    message = None
    if text := spec.get("messageExpression"):
        try:
            message = compile_expression(text, variables)
        except CelSyntaxError as error:
            raise RuleError(index, "messageExpression", text, f"messageExpression {error.said()}") from None
        if message.type.kind != "string":
            raise RuleError(index, "messageExpression", text, "messageExpression must evaluate to a string")
    return Rule(spec, program, message, mentions(program.node, "oldSelf"))


class Judge:
    """One object under judgement: what it has cost and what was found."""

    def __init__(self) -> None:
        self.found: list[FieldError] = []
        self._budget = OBJECT_LIMIT

    def walk(self, ruled: Ruled, value: Any, path: Path, old: Any = NEW) -> None:
        """Ask every rule at and below a value that was `old` before."""
        if self._budget < 0 or value is None:
            return
        if ruled.rules:
            self._ask(ruled, value, path, old)
        if isinstance(value, dict):
            known = old if isinstance(old, dict) else {}
            for name, inner in ruled.properties.items():
                if name in value:
                    self.walk(inner, value[name], path.child(name), known.get(name, NEW))
            if ruled.additional is not None:
                for name, one in value.items():
                    if name not in ruled.schema.properties:
                        self.walk(ruled.additional, one, path.key(name), known.get(name, NEW))
        elif isinstance(value, list) and ruled.items is not None:
            find = before(old, ruled.schema.raw)
            for index, one in enumerate(value):
                self.walk(ruled.items, one, path.index(index), find(index, one))

    def _ask(self, ruled: Ruled, value: Any, path: Path, old: Any) -> None:
        unchanged = old is not NEW and old == value
        convert = ruled.convert
        own = value if convert is None else convert(value)
        known = old if convert is None or old is NEW else convert(old)
        for rule in ruled.rules:
            if rule.transition:
                if old is NEW and not rule.optional_old:
                    continue
            elif unchanged:
                continue
            variables: dict[str, Any] = {"self": own}
            if rule.optional_old:
                variables["oldSelf"] = NONE if old is NEW else Optional(known)
            elif old is not NEW:
                variables["oldSelf"] = known
            self._evaluate(rule, variables, value, path, ruled.schema)
            if self._budget < 0:
                return

    def _evaluate(self, rule: Rule, variables: dict[str, Any], value: Any, path: Path, schema: Structural) -> None:
        try:
            passed, cost = rule.program.run(variables, min(PER_CALL_LIMIT, max(self._budget, 0)))
        except CostError:
            self._out_of_budget(rule, path, value)
            return
        except EvalError as error:
            if str(error).startswith("no such overload"):
                detail = f"'{error}': {NO_MATCH} for rule: {rule.text}"
            else:
                detail = f"{error} evaluating rule: {rule.text}"
            self.found.append(errors.invalid(path, shown(value, schema), detail))
            return
        self._budget -= cost
        if passed is not True:
            self.found.append(self._failure(rule, variables, value, path))

    def _out_of_budget(self, rule: Rule, path: Path, value: Any) -> None:
        if self._budget < PER_CALL_LIMIT:
            detail = OUT_OF_BUDGET
        else:
            why = "no further validation rules will be run due to call cost exceeds limit for rule"
            detail = f"'{OVER_BUDGET}': {why}: {rule.text}"
        self.found.append(errors.invalid(path, _kind(value), detail))
        self._budget = -1

    def _failure(self, rule: Rule, variables: dict[str, Any], value: Any, path: Path) -> FieldError:
        detail = self._message(rule, variables)
        where = _joined(path, rule.spec.get("fieldPath") or "")
        match rule.spec.get("reason"):
            case "FieldValueForbidden":
                return errors.forbidden(where, detail)
            case "FieldValueRequired":
                return errors.required(where, detail)
            case "FieldValueDuplicate":
                return errors.duplicate(where, _short(value))
        return errors.invalid(where, _short(value), detail)

    def _message(self, rule: Rule, variables: dict[str, Any]) -> str:
        if rule.message is not None:
            try:
                text, cost = rule.message.run(variables)
            except EvalError:
                text, cost = "", 0
            self._budget -= cost
            if isinstance(text, str) and text.strip() and "\n" not in text.strip():
                return text.strip()
        message = str(rule.spec.get("message") or "").strip()
        return message or f"failed rule: {str(rule.spec.get('rule') or '').strip()}"


def _joined(path: Path, suffix: str) -> Path:
    if not suffix:
        return path
    return Path(path.text + suffix) if path.text else Path(suffix.lstrip("."))


def _kind(value: Any) -> str:
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "string"


def shown(value: Any, schema: Structural) -> Any:
    """The value as an error shows it: objects and lists by their type only."""
    return schema.type or _kind(value) if isinstance(value, (dict, list)) else value


def _short(value: Any) -> Any:
    """The value where a rule failed: objects and lists are left out, they may be long."""
    return errors.OMITTED if isinstance(value, (dict, list)) else value


def rule_errors(ruled: Ruled | None, new: Any, old: Any = NEW, path: Path | None = None) -> list[FieldError]:
    """What the rules of a schema say about an object, or about a value at `path`."""
    if ruled is None:
        return []
    judge = Judge()
    judge.walk(ruled, new, path or Path(), old)
    return judge.found


def default_errors(node: Structural, path: Path) -> list[FieldError]:
    """What the rules of a schema, and of what is below it, say about its default, which is at `path`."""
    try:
        ruled = compile_rules(node, resource=node.embedded, messages=False)
    except RuleError as error:
        if not str(error.value).strip():
            return []  # that there is no rule is said where it should be
        return [errors.invalid(path, node.type, f"rule compile error: {error}")]
    return rule_errors(ruled, node.default, path=path)
