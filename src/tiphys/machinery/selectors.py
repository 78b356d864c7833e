"""Label and field selectors: parsing, matching, and the messages of bad ones.

Source: Kubernetes documentation, "Labels and Selectors" and "Field Selectors".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiphys.machinery.field import quote

_NAME = re.compile(r"(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_TOKEN = re.compile(r"\s*(?:(!=|==|=|!|,|\(|\)|<|>)|([^\s=!,()<>]+)|$)")

_NAME_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_SUBDOMAIN_RULE = (
    "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
    "must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_QUALIFIED_RULE = (
    "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. "
    "'example.com/MyName')"
)


def qualified_name_errors(name: str) -> list[str]:
    """What is wrong with a label key; empty when nothing is."""
    prefix, slash, local = name.rpartition("/")
    if prefix.count("/"):
        return [_QUALIFIED_RULE]
    errors = []
    if slash and not prefix:
        errors.append("prefix part must be non-empty")
    elif slash:
        if len(prefix) > 253:
            errors.append("prefix part must be no more than 253 bytes")
        if not _SUBDOMAIN.fullmatch(prefix):
            errors.append(_SUBDOMAIN_RULE)
    if not local:
        errors.append("name part must be non-empty")
    elif len(local) > 63:
        errors.append("name part must be no more than 63 bytes")
    if not _NAME.fullmatch(local):
        errors.append(_NAME_RULE)
    return errors


def label_value_errors(value: str) -> list[str]:
    """What is wrong with a label value; empty when nothing is."""
    errors = ["must be no more than 63 bytes"] if len(value) > 63 else []
    if value and not _NAME.fullmatch(value):
        errors.append(_VALUE_RULE)
    return errors


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a label. Operators: =, ==, !=, in, notin, exists, !, gt, lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "=" | "==" | "in":
                return value is not None and value in self.values
            case "!=" | "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        return value is not None and self._compare(value)

    def _compare(self, value: str) -> bool:
        try:
            ours, bound = int(value), int(self.values[0])
        except ValueError:
            return False
        return ours > bound if self.operator == "gt" else ours < bound

    def __str__(self) -> str:
        """The selector's text of this condition."""
        match self.operator:
            case "exists":
                return self.key
            case "!":
                return f"!{self.key}"
            case "in" | "notin":
                return f"{self.key} {self.operator} ({','.join(sorted(self.values))})"
            case "gt" | "lt":
                return f"{self.key}{'>' if self.operator == 'gt' else '<'}{self.values[0]}"
        return f"{self.key}{self.operator}{self.values[0]}"


_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!", "Gt": "gt", "Lt": "lt"}


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All conditions must hold; no condition matches everything. `nothing` matches nothing."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        have = labels or {}
        return all(one.matches(have) for one in self.requirements)

    @property
    def empty(self) -> bool:
        """Does it match everything?"""
        return not self.nothing and not self.requirements

    def __str__(self) -> str:
        return ",".join(str(one) for one in self.requirements)

    @classmethod
    def of_dict(cls, selector: Any) -> LabelSelector:
        """Of a metav1.LabelSelector, as a dict or as the generated type; None matches nothing.

        Raises ValueError for an unknown operator or a bad key.
        """
        if selector is None:
            return cls(nothing=True)
        if isinstance(selector, Mapping):
            labels: Mapping[str, str] = selector.get("matchLabels") or {}
            expressions = [
                (e.get("key", ""), e.get("operator", ""), e.get("values") or ())
                for e in selector.get("matchExpressions") or ()
            ]
        else:
            labels = selector.match_labels
            expressions = [(e.key, e.operator, e.values) for e in selector.match_expressions]
        requirements = [Requirement(key, "=", (value,)) for key, value in sorted(labels.items())]
        for key, operator, values in expressions:
            if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
                raise ValueError(f"{quote(operator)} is not a valid label selector operator")
            requirements.append(checked(Requirement(key, _OPERATORS[operator], tuple(values))))
        requirements.sort(key=lambda one: one.key)
        return cls(tuple(requirements))

    @classmethod
    def of_labels(cls, labels: Mapping[str, str] | None) -> LabelSelector:
        """Of a plain map of labels (a Service's selector); None or empty matches everything."""
        return cls(tuple(Requirement(key, "=", (value,)) for key, value in sorted((labels or {}).items())))

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """Of the query form `a=b,c in (x,y),!d`. Raises ValueError worded as the server words it."""
        return cls(tuple(sorted(_Parser(text).parse(), key=lambda one: one.key)))


def of_node_selector(expressions: Iterable[Mapping[str, Any]]) -> LabelSelector:
    """Of a node selector term's matchExpressions, which also know Gt and Lt. Raises ValueError."""
    requirements = []
    for e in expressions:
        operator = e.get("operator", "")
        if operator not in _OPERATORS:
            raise ValueError(f"{quote(operator)} is not a valid node selector operator")
        requirements.append(checked(Requirement(e.get("key", ""), _OPERATORS[operator], tuple(e.get("values") or ()))))
    return LabelSelector(tuple(requirements))


def checked(requirement: Requirement) -> Requirement:
    """The requirement, if its key, operator and values fit. Raises ValueError."""
    wrong = _join(qualified_name_errors(requirement.key))
    errors = [f"key: Invalid value: {quote(requirement.key)}: {wrong}"] if wrong else []
    count = len(requirement.values)
    problem = ""
    match requirement.operator:
        case "in" | "notin" if count == 0:
            problem = "for 'in', 'notin' operators, values set can't be empty"
        case "=" | "==" | "!=" if count != 1:
            problem = "exact-match compatibility requires one single value"
        case "exists" | "!" if count != 0:
            problem = "values set must be empty for exists and does not exist"
        case "gt" | "lt" if count != 1:
            problem = "for 'Gt', 'Lt' operators, exactly one value is required"
        case "gt" | "lt" if not re.fullmatch(r"[+-]?\d+", requirement.values[0]):
            rule = "for 'Gt', 'Lt' operators, the value must be an integer"
            errors.append(f"values[0]: Invalid value: {quote(requirement.values[0])}: {rule}")
    if problem:
        errors.append(f"values: Invalid value: {_list(requirement.values)}: {problem}")
    for value in requirement.values:
        wrong = _join(label_value_errors(value))
        if wrong:
            errors.append(f"values[0][{requirement.key}]: Invalid value: {quote(value)}: {wrong}")
    if errors:
        raise ValueError(errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")
    return requirement


def _join(errors: Sequence[str]) -> str:
    return "; ".join(errors)


def _list(values: Sequence[str]) -> str:
    return "[" + ",".join(quote(v) for v in values) + "]"


class _Parser:
    """Recursive descent over tokens; a lookahead of one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            assert match is not None  # the pattern takes any character
            token = match.group(1) or match.group(2)
            if token:
                self.tokens.append(token)
            position = max(match.end(), position + 1)
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def parse(self) -> list[Requirement]:
        requirements: list[Requirement] = []
        while True:
            token = self.peek()
            if not token:
                return requirements
            if token in {"=", "==", "!=", "(", ")", "<", ">", ","}:
                raise ValueError(f"found '{token}', expected: !, identifier, or 'end of string'")
            requirements.append(self.requirement())
            token = self.take()
            if not token:
                return requirements
            if token != ",":
                raise ValueError(f"found '{token}', expected: ',' or 'end of string'")
            following = self.peek()
            if following != "!" and (not following or following in {"=", "==", "!=", "(", ")", "<", ">", ","}):
                raise ValueError(f"found '{following}', expected: identifier after ','")

    def fail(self, problem: str) -> None:
        raise ValueError(f"unable to parse requirement: {problem}")

    def key(self) -> str:
        token = self.take()
        if not token or token in {"=", "==", "!=", "(", ")", "<", ">", ",", "!"}:
            self.fail(f"found '{token}', expected: identifier")
        errors = [one.replace("a qualified name", "a valid label key", 1) for one in qualified_name_errors(token)]
        if errors:
            self.fail(f"<nil>: Invalid value: {quote(token)}: {_join(errors)}")
        return token

    def requirement(self) -> Requirement:
        if self.peek() == "!":
            self.take()
            return Requirement(self.key(), "!")
        key = self.key()
        operator = self.peek()
        if not operator or operator == ",":
            return Requirement(key, "exists")
        self.take()
        match operator:
            case "=" | "==" | "!=":
                return self.checked(Requirement(key, operator, (self.exact(),)))
            case "in" | "notin":
                return self.checked(Requirement(key, operator, self.value_list()))
            case "<" | ">":
                return self.checked(Requirement(key, "gt" if operator == ">" else "lt", (self.exact(),)))
        self.fail(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")
        raise AssertionError

    def checked(self, requirement: Requirement) -> Requirement:
        try:
            return checked(requirement)
        except ValueError as error:
            raise ValueError(f"unable to parse requirement: {error}") from None

    def exact(self) -> str:
        token = self.peek()
        if not token or token == ",":
            return ""
        if token in {"=", "==", "!=", "(", ")", "<", ">", "!"}:
            self.fail(f"found '{token}', expected: identifier")
        return self.take()

    def value_list(self) -> tuple[str, ...]:
        token = self.take()
        if token != "(":
            self.fail(f"found '{token}' expected: '('")
        values: list[str] = []
        while True:
            token = self.take()
            if token == ")":
                if not values:
                    values.append("")
                return tuple(dict.fromkeys(values))
            if token == ",":
                if not values or self.peek() in {",", ")"}:
                    values.append("")
                continue
            follows = bool(values) and self.tokens[self.at - 2] != ","
            if not token or follows or token in {"=", "==", "!=", "(", "<", ">", "!"}:
                expected = "',' or ')'" if values else "',', ')' or identifier"
                self.fail(f"found '{token}', expected: {expected}")
            values.append(token)


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One condition on a field: `=` or `!=`."""

    field: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All conditions must hold on an object's selectable fields."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, fields: Mapping[str, str]) -> bool:
        return all((fields.get(r.field, "") == r.value) == (r.operator == "=") for r in self.requirements)

    @property
    def empty(self) -> bool:
        return not self.requirements

    def exact(self, field: str) -> str | None:
        """The value that `field` must have, if the selector says so: `metadata.name=x`."""
        return next((r.value for r in self.requirements if r.field == field and r.operator == "="), None)

    def __str__(self) -> str:
        return ",".join(f"{r.field}{r.operator}{_escape(r.value)}" for r in self.requirements)

    @classmethod
    def parse(cls, text: str) -> FieldSelector:
        """Of the query form `a=b,c!=d`; `\\`, `,` and `=` in values are escaped. Raises ValueError."""
        return cls(tuple(_field_requirement(term, text) for term in _split_terms(text) if term))


def _split_terms(text: str) -> list[str]:
    return [t.replace("\0", "\\,") for t in text.replace("\\\\", "\1").replace("\\,", "\0").split(",")]


def _field_requirement(term: str, text: str) -> FieldRequirement:
    for i, char in enumerate(term):
        if term.startswith("!=", i):
            return FieldRequirement(term[:i], "!=", _unescape(term[i + 2 :]))
        if term.startswith("==", i):
            return FieldRequirement(term[:i], "=", _unescape(term[i + 2 :]))
        if char == "=":
            return FieldRequirement(term[:i], "=", _unescape(term[i + 1 :]))
    raise ValueError(f"invalid selector: '{text}'; can't understand '{term}'".replace("\1", "\\\\"))


def _unescape(value: str) -> str:
    plain: list[str] = []
    characters = iter(value)
    for char in characters:
        if char == "\\":
            escaped = next(characters, "")
            if not escaped or escaped not in ",=":
                raise ValueError(f"invalid field selector: invalid escape sequence: \\{escaped}".replace("\1", "\\\\"))
            plain.append(escaped)
        elif char in ",=":
            raise ValueError(f"invalid field selector: unescaped character in value: {ord(char)}")
        else:
            plain.append("\\" if char == "\1" else char)
    return "".join(plain)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")
