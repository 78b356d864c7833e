"""Pod templates as upstream's controllers print them to hash them.

    {"spec": {"restartPolicy": "Always"}}   ⟶   (v1.PodTemplateSpec){ObjectMeta:(v1.ObjectMeta){Name:(string) …}
                                                 Spec:(v1.PodSpec){… RestartPolicy:(v1.RestartPolicy)Always …}}

Every field is there in the order of its declaration, with its type; what is absent shows as nil, zero or nothing, and
an empty list or map as nil, as controllers receive objects in protobuf. `data/pod_template.json` has the names, as
`NAME:JSON NAME:TYPE` a field (no JSON name: its fields stand in the object around it). Names of ReplicaSets and labels
of pods depend on the text: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pod-template-hash-label
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from tiphys.machinery.time import parse_rfc3339

TEMPLATE: Final = "v1.PodTemplateSpec"
NIL: Final = "<nil>"
_RESOURCES: Final = "map[v1.ResourceName]resource.Quantity"
# Seconds from year 1, where upstream's times begin, to 1970.
_UNIX: Final = 62135596800
_ZERO_TIME: Final = "{Time:(time.Time){wall:(uint64)0 ext:(int64)0 loc:(*time.Location)<nil>}}"
_LOCATION: Final = (
    "{name:(string) zone:([]time.zone)<nil> tx:([]time.zoneTrans)<nil> extend:(string) cacheStart:(int64)0 "
    "cacheEnd:(int64)0 cacheZone:(*time.zone)<nil>}"
)

# (name, JSON name, type) of each field of a struct.
Fields = Sequence[tuple[str, str, str]]


@lru_cache(maxsize=1)
def _types() -> tuple[Mapping[str, Fields], Mapping[str, str]]:
    """The fields of each struct, and what each named type is."""
    document = json.loads(files(__package__).joinpath("data/pod_template.json").read_text(encoding="utf-8"))
    structs: dict[str, Fields] = {
        name: [(field, key, kind) for field, key, kind in (one.split(":", 2) for one in fields)]
        for name, fields in document["structs"].items()
    }
    return structs, document["scalars"]


def dump_template(template: Mapping[str, Any]) -> str:
    """The text of a template given as JSON; quantities are in canonical form."""
    return _typed(TEMPLATE, template)


def _typed(kind: str, value: Any) -> str:
    return f"({kind}){_body(kind, value)}"


def _body(kind: str, value: Any) -> str:
    if kind.startswith("*"):
        return NIL if value is None else _body(kind[1:], value)
    if kind.startswith("[]"):
        return f"[{' '.join([_body(kind[2:], one) for one in value])}]" if value else NIL
    if kind == "v1.ResourceList":
        kind = _RESOURCES
    if kind.startswith("map["):
        inner = kind[kind.index("]") + 1 :]
        return f"map[{' '.join([f'{key}:{_body(inner, value[key])}' for key in sorted(value)])}]" if value else NIL
    if kind in _SPECIAL:
        return _SPECIAL[kind](value)
    structs, scalars = _types()
    if kind in structs:
        value = value or {}
        return f"{{{' '.join([_field(one, value) for one in structs[kind]])}}}"
    return _scalar(scalars.get(kind, kind), value)


def _field(field: tuple[str, str, str], value: Mapping[str, Any]) -> str:
    name, key, kind = field
    return f"{name}:{_typed(kind, value.get(key) if key else value)}"


def _scalar(kind: str, value: Any) -> str:
    if kind == "string":
        return value or ""
    if kind == "bool":
        return "true" if value else "false"
    return str(value or 0)


def _int_or_string(value: Any) -> str:
    text = isinstance(value, str)
    number, word = ("0", value) if text else (str(value or 0), "")
    return f"{{Type:(intstr.Type){int(text)} IntVal:(int32){number} StrVal:(string){word}}}"


def _time(value: str | None) -> str:
    if not value:
        return _ZERO_TIME
    seconds = int(parse_rfc3339(value).timestamp()) + _UNIX
    return f"{{Time:(time.Time){{wall:(uint64)0 ext:(int64){seconds} loc:(*time.Location){_LOCATION}}}}}"


# --- quantities ------------------------------------------------------------------------------------
_QUANTITY: Final = re.compile(r"([+-]?)(\d+)(?:([KMGTPE]i)|([numkMGTPE]?)|[eE]([+-]?\d+))")
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
# Digits a number may have to be kept as a plain integer; with a binary suffix those of the suffix count too.
_DECIMAL_DIGITS: Final = 18
_BINARY_DIGITS: Final = 15
_WORD: Final = 1 << 64


def _quantity(text: str | int | None) -> str:
    text = str(text or 0)
    found = _QUANTITY.fullmatch(text)
    assert found is not None, text
    sign, digits, binary, decimal, exponent = found.groups()
    number, scale, form = int(digits), 0, "DecimalSI"
    if binary:
        form = "BinarySI"
        plain = len(digits) + len(str(1 << _BINARY[binary])) <= _BINARY_DIGITS
        # Upstream does not remember the text of these.
        text = "" if number % 8 == 0 else text
        number <<= _BINARY[binary]
    else:
        plain = len(digits) <= _DECIMAL_DIGITS
        scale = int(exponent) if exponent is not None else _DECIMAL[decimal]
        form = "DecimalExponent" if exponent is not None else form
    if plain:
        small = f"{sign if number else ''}{number}", scale
        large = NIL
    else:
        small, large, text = ("0", 0), _big(number, scale, negative=sign == "-"), ""
    return (
        f"{{i:(resource.int64Amount){{value:(int64){small[0]} scale:(resource.Scale){small[1]}}} "
        f"d:(resource.infDecAmount){{Dec:(*inf.Dec){large}}} s:(string){text} Format:(resource.Format){form}}}"
    )


def _big(number: int, scale: int, *, negative: bool) -> str:
    """A number of any size: in billionths, as words of 64 bits, the least first."""
    unscaled, words = number * 10 ** (scale + 9), []
    while unscaled:
        unscaled, word = divmod(unscaled, _WORD)
        words.append(str(word))
    sign = "true" if negative else "false"
    return f"{{unscaled:(big.Int){{neg:(bool){sign} abs:(big.nat)[{' '.join(words)}]}} scale:(inf.Scale)9}}"


_SPECIAL: Final = {
    "resource.Quantity": _quantity,
    "intstr.IntOrString": _int_or_string,
    "v1.Time": _time,
}
