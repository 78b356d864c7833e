"""Static types: what the checker knows of an expression before it runs.

`Type.parse("list(map(string, A))")` reads the form that error messages use; a single capital letter is a type
variable of a function's signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True, eq=False)
class Type:
    """A type. `fields` of an object by the name an expression uses; None of them means that nothing is known.

    `size` is the most characters, items or entries a value may have, for estimating costs; None: unknown.
    """

    kind: str
    params: tuple[Type, ...] = ()
    name: str = ""
    fields: Mapping[str, Type] = field(default_factory=dict)
    size: int | None = None

    def __str__(self) -> str:
        if self.kind == "object":
            return self.name
        if self.params:
            return f"{self.kind}({', '.join(map(str, self.params))})"
        return _SHOWN.get(self.kind, self.kind)

    @property
    def is_dyn(self) -> bool:
        return self.kind == "dyn"

    @property
    def element(self) -> Type:
        """Of a list its items, of an optional its value, of a map its keys."""
        return self.params[0] if self.params else DYN

    @property
    def mapped(self) -> Type:
        """A map's values."""
        return self.params[1] if len(self.params) > 1 else DYN

    @classmethod
    def parse(cls, text: str) -> Type:
        """The type of a text such as `map(string, int)`."""
        text = text.strip()
        if not text.endswith(")"):
            return _SIMPLE.get(text) or cls(text)
        kind, _, rest = text.partition("(")
        return cls(kind, tuple(cls.parse(one) for one in split_arguments(rest[:-1])))


_SHOWN: Final = {"null": "null"}


def split_arguments(text: str) -> list[str]:
    """Split at the commas that are in no parentheses."""
    found, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "," and not depth:
            found.append(text[start:i])
            start = i + 1
    last = text[start:].strip()
    return [one.strip() for one in found] + ([last] if last else [])


DYN: Final = Type("dyn")
BOOL: Final = Type("bool")
INT: Final = Type("int")
UINT: Final = Type("uint")
DOUBLE: Final = Type("double")
STRING: Final = Type("string")
BYTES: Final = Type("bytes")
NULL: Final = Type("null")
TIMESTAMP: Final = Type("timestamp")
DURATION: Final = Type("duration")
_SIMPLE: Final[dict[str, Any]] = {
    one.kind: one for one in (DYN, BOOL, INT, UINT, DOUBLE, STRING, BYTES, NULL, TIMESTAMP, DURATION)
}


def list_of(item: Type, size: int | None = None) -> Type:
    """list(item)."""
    return Type("list", (item,), size=size)


def map_of(key: Type, value: Type, size: int | None = None) -> Type:
    """map(key, value)."""
    return Type("map", (key, value), size=size)


def optional_of(value: Type) -> Type:
    """optional_type(value)."""
    return Type("optional_type", (value,))


def type_of_type(named: Type) -> Type:
    """type(named)."""
    return Type("type", (named,))


Bindings = dict[str, Type]


def _is_variable(one: Type) -> bool:
    return len(one.kind) == 1 and one.kind.isupper()


def fits(wanted: Type, given: Type, bindings: Bindings) -> bool:
    """Whether a value of a type may be an argument of another; notes in `bindings` what variables stand for."""
    if _is_variable(wanted):
        bound = bindings.get(wanted.kind)
        if bound is None or bound.is_dyn:
            bindings[wanted.kind] = given
            return True
        if given.is_dyn:
            return True
        if fits(bound, given, bindings):
            return True
        if fits(given, bound, {}):
            bindings[wanted.kind] = given
            return True
        return False
    if wanted.is_dyn or given.is_dyn:
        return True
    if given.kind == "null":
        return wanted.kind in ("null", "object", "timestamp", "duration", "optional_type") or wanted.name != ""
    if wanted.kind != given.kind:
        return False
    if wanted.kind == "object":
        return wanted.name == given.name
    return len(wanted.params) == len(given.params) and all(
        fits(one, other, bindings) for one, other in zip(wanted.params, given.params, strict=True)
    )


def resolved(one: Type, bindings: Bindings) -> Type:
    """A signature's type with its variables replaced."""
    if _is_variable(one):
        return bindings.get(one.kind, DYN)
    if not one.params:
        return one
    return Type(one.kind, tuple(resolved(param, bindings) for param in one.params), one.name, one.fields)


def common(a: Type, b: Type) -> Type | None:
    """One type for both; None when there is none but dyn."""
    if a.is_dyn or b.is_dyn:
        return DYN
    if fits(a, b, {}):
        return a
    return b if fits(b, a, {}) else None
