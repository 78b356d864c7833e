"""format(): `'%s is %d'.format([name, 3])`, with the words it has for what does not fit its clauses.

Numbers are written as in English: `1,234.500000`, `1.234500×10⁰³`, `∞`.
https://pkg.go.dev/github.com/google/cel-go/ext#Strings
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from tiphys.machinery.cel import times
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.numbers import float_text
from tiphys.machinery.cel.values import CelType, type_of

Clause = tuple[str, int | None]
_SUPERSCRIPT: Final = str.maketrans("0123456789-+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺")
_IN_PLACE: Final = {"NaN": "NaN", "Infinity": "∞", "-Infinity": "-∞"}
_PRINTABLE: Final = frozenset(
    ("string", "bool", "bytes", "int", "uint", "double", "map", "list", "type", "null", "null_type")
) | frozenset(("duration", "timestamp", "google.protobuf.Timestamp", "google.protobuf.Duration"))
# What each clause takes, and how it says that something else was given.
ACCEPTS: Final[dict[str, tuple[frozenset[str], str]]] = {
    "s": (
        _PRINTABLE,
        (
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, "
            "and timestamps"
        ),
    ),
    "d": (frozenset(("int", "uint")), "decimal clause can only be used on integers"),
    # These take the texts NaN, Infinity and -Infinity, too.
    "f": (frozenset(("double", "string")), "fixed-point clause can only be used on doubles"),
    "e": (frozenset(("double", "string")), "scientific clause can only be used on doubles"),
    "b": (frozenset(("int", "uint", "bool")), "only integers and bools can be formatted as binary"),
    "o": (frozenset(("int", "uint")), "octal clause can only be used on integers"),
    **dict.fromkeys(
        "xX",
        (
            frozenset(("int", "uint", "bytes", "string")),
            "only integers, byte buffers, and strings can be formatted as hex",
        ),
    ),
}


def refusal(clause: str, kind: str) -> str:
    """What is said when a clause is given something of a kind it does not take."""
    return f"error during formatting: {ACCEPTS[clause][1]}, was given {kind}"


def parts(text: str) -> Iterator[str | Clause]:
    """Literal pieces and clauses of a format. Raises EvalError."""
    i = 0
    while i < len(text):
        if text[i] != "%":
            end = text.find("%", i)
            end = len(text) if end < 0 else end
            yield text[i:end]
            i = end
            continue
        i += 1
        if i == len(text):
            raise EvalError("unexpected end of string")
        if text[i] == "%":
            yield "%"
            i += 1
            continue
        precision, i = _precision(text, i)
        clause = text[i : i + 1]
        if clause not in ACCEPTS:
            raise EvalError(f'could not parse formatting clause: unrecognized formatting clause "{clause}"')
        yield clause, precision
        i += 1


def _precision(text: str, i: int) -> tuple[int | None, int]:
    if text[i] != ".":
        return None, i
    end = i + 1
    while text[end : end + 1].isdigit():
        end += 1
    if end == i + 1:
        raise EvalError(
            "could not parse formatting clause: error while parsing precision: error while converting precision to "
            'integer: strconv.Atoi: parsing "": invalid syntax'
        )
    return int(text[i + 1 : end]), end


def formatted(text: str, args: list[Any]) -> str:
    """`text.format(args)`. Raises EvalError."""
    out: list[str] = []
    used = 0
    for part in parts(text):
        if isinstance(part, str):
            out.append(part)
            continue
        if used >= len(args):
            raise EvalError(f"index {used} out of range")
        value, (clause, precision) = args[used], part
        kind = str(type_of(value)).partition("(")[0]
        if kind not in ACCEPTS[clause][0]:
            raise EvalError(refusal(clause, kind))
        out.append(_CLAUSES[clause](value, precision))
        used += 1
    return "".join(out)


def _as_text(value: Any, precision: int | None) -> str:
    match value:
        case str():
            return str(value)
        case bytes():
            return value.decode(errors="replace")
        case float():
            return float_text(value)
        case datetime():
            return times.timestamp_text(value)
        case timedelta():
            return times.duration_text(value)
    return _inside(value)


def _inside(value: Any) -> str:
    """A value in a list or a map, where texts are quoted and doubles have six digits."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case CelType():
            return str(value)
        case str():
            return f'"{value}"'
        case bytes():
            return f'b"{value.decode(errors="replace")}"'
        case float():
            return f"{value:.6f}" if math.isfinite(value) else _fixed(value, None)
        case int():
            return str(int(value))
        case datetime():
            return f'timestamp("{times.timestamp_text(value)}")'
        case timedelta():
            return f'duration("{times.duration_text(value)}")'
        case list():
            return "[" + ", ".join(map(_inside, value)) + "]"
        case dict():
            return "{" + ", ".join(sorted(f"{_inside(key)}:{_inside(one)}" for key, one in value.items())) + "}"
    raise EvalError(refusal("s", str(type_of(value)).partition("(")[0]))


def _decimal(value: Any, precision: int | None) -> str:
    return str(int(value))


def _special(value: Any, clause: str) -> str | None:
    """Texts and doubles that are no numbers."""
    if isinstance(value, str):
        if value not in _IN_PLACE:
            raise EvalError(refusal(clause, "string"))
        return _IN_PLACE[value]
    if math.isnan(value):
        return "NaN"
    return ("∞" if value > 0 else "-∞") if math.isinf(value) else None


def _fixed(value: Any, precision: int | None) -> str:
    return _special(value, "f") or f"{value:,.{6 if precision is None else precision}f}"


def _scientific(value: Any, precision: int | None) -> str:
    special = _special(value, "e")
    if special is not None:
        return special
    mantissa, _, exponent = f"{value:.6e}".partition("e")
    return f"{mantissa}×10{exponent.lstrip('+').translate(_SUPERSCRIPT)}"


def _base(form: str) -> Callable[[Any, int | None], str]:
    def clause(value: Any, precision: int | None) -> str:
        if isinstance(value, (str, bytes)):
            text = (value.encode() if isinstance(value, str) else value).hex()
            return text.upper() if form == "X" else text
        return format(int(value), form)

    return clause


_CLAUSES: Final[dict[str, Callable[[Any, int | None], str]]] = {
    "s": _as_text,
    "d": _decimal,
    "f": _fixed,
    "e": _scientific,
    **{form: _base(form) for form in "bxXo"},
}
