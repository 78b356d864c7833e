"""Exact amounts of resources: `100m`, `1.5Gi`, `2e3`.

A quantity is an exact decimal with the suffix family it was written in, and has one canonical text: no fraction,
as large a suffix as possible. Anything finer than a nano is rounded up. Source: Kubernetes API reference, Quantity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_UP, Context, Decimal
from enum import Enum
from functools import lru_cache

_SYNTAX = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?", re.ASCII)
_SYNTAX_ERROR = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_DECIMAL_EXPONENT = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL_EXPONENT.items()}
_BINARY_POWER = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_BINARY_SUFFIX = {power: suffix for suffix, power in _BINARY_POWER.items()}
# Amounts have at most 19 digits before the point and 9 after it; what is read may have many more.
_EXACT = Context(prec=4000, rounding=ROUND_UP)
_NANO = Decimal("1e-9")
_MAX = Decimal(2**63 - 1)


class Format(Enum):
    """The suffix family of a quantity's text."""

    DECIMAL_SI = "DecimalSI"
    BINARY_SI = "BinarySI"
    DECIMAL_EXPONENT = "DecimalExponent"


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """An exact amount. Equal by amount, whatever the suffix family; hashable."""

    amount: Decimal
    format: Format = Format.DECIMAL_SI

    @classmethod
    def parse(cls, text: str | int | float) -> Quantity:
        """Any text (or JSON number) of the API. Raises ValueError worded as the server words it."""
        return parse_cached(text if isinstance(text, str) else _number_text(text))

    @classmethod
    def of(cls, amount: int | Decimal, format: Format = Format.DECIMAL_SI) -> Quantity:
        """A quantity of a plain number."""
        return cls(Decimal(amount), format)

    @classmethod
    def milli(cls, thousandths: int, format: Format = Format.DECIMAL_SI) -> Quantity:
        """A quantity of so many thousandths: CPU in millicores."""
        return cls(Decimal(thousandths).scaleb(-3), format)

    def value(self) -> int:
        """The amount as an integer, rounded up (away from zero)."""
        return int(self.amount.to_integral_value(ROUND_UP))

    def milli_value(self) -> int:
        """The amount in thousandths, rounded up (away from zero)."""
        return int(self.amount.scaleb(3).to_integral_value(ROUND_UP))

    def round_up(self, exponent: int) -> Quantity:
        """Rounded up to a multiple of 10**exponent; -3 is what resource lists are rounded to."""
        rounded = self.amount.quantize(Decimal(1).scaleb(exponent), ROUND_UP)
        return self if rounded == self.amount else Quantity(rounded, self.format)

    def is_zero(self) -> bool:
        return not self.amount

    def sign(self) -> int:
        return (self.amount > 0) - (self.amount < 0)

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.amount + other.amount, other.format if self.is_zero() else self.format)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.amount - other.amount, other.format if self.is_zero() else self.format)

    def __neg__(self) -> Quantity:
        return Quantity(-self.amount, self.format)

    def __mul__(self, factor: int) -> Quantity:
        return Quantity(self.amount * factor, self.format)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.amount == other.amount

    def __hash__(self) -> int:
        return hash(self.amount)

    def __lt__(self, other: Quantity) -> bool:
        return self.amount < other.amount

    def __le__(self, other: Quantity) -> bool:
        return self.amount <= other.amount

    def __gt__(self, other: Quantity) -> bool:
        return self.amount > other.amount

    def __ge__(self, other: Quantity) -> bool:
        return self.amount >= other.amount

    def __str__(self) -> str:
        """The canonical text."""
        amount = self.amount
        if not amount:
            return "0"
        # A binary quantity below 1024, or with a fraction, is written in decimal.
        if self.format is Format.BINARY_SI and abs(amount) >= 1024 and amount == amount.to_integral_value():
            return _binary(int(amount))
        return _decimal(amount, self.format is Format.DECIMAL_EXPONENT)


def _binary(amount: int) -> str:
    power = 0
    while power < 6 and amount % 1024 == 0:
        amount //= 1024
        power += 1
    return f"{amount}{_BINARY_SUFFIX.get(power, '')}"


def _decimal(amount: Decimal, exponential: bool) -> str:
    sign, digits, raw_exponent = amount.normalize().as_tuple()
    assert isinstance(raw_exponent, int)
    mantissa, exponent = int("".join(map(str, digits))), raw_exponent
    while exponent % 3 or (exponent > 18 and not exponential):
        mantissa *= 10
        exponent -= 1
    exponent = max(exponent, -9)
    minus = "-" if sign else ""
    if exponential:
        return f"{minus}{mantissa}e{exponent}" if exponent else f"{minus}{mantissa}"
    return f"{minus}{mantissa}{_DECIMAL_SUFFIX[exponent]}"


def _number_text(number: int | float) -> str:
    return str(number) if isinstance(number, int) else repr(number)


def _extreme(amount: Decimal, exponent: str) -> Decimal:
    """Exponents beyond any sense: the largest or the smallest amount."""
    if not amount:
        return amount
    return _NANO if exponent.startswith("-") else _MAX


def _bounded(amount: Decimal, *, short: bool) -> Decimal:
    """At least nanos, at most 2**63-1; but a decimal of few digits is taken with any exponent, as the server does."""
    if amount > _MAX:
        return amount.normalize(_EXACT) if short else _MAX
    return _EXACT.quantize(amount, _NANO).normalize(_EXACT)


@lru_cache(maxsize=8192)
def parse_cached(text: str) -> Quantity:
    """`Quantity.parse` of text; clusters use few different quantities."""
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise ValueError(_SYNTAX_ERROR)
    sign, number, suffix, exponent = match.groups()
    amount = Decimal(number)
    form = Format.DECIMAL_SI
    if exponent is not None:
        amount = _EXACT.scaleb(amount, int(exponent)) if abs(int(exponent)) < 1000 else _extreme(amount, exponent)
        form = Format.DECIMAL_EXPONENT
    elif suffix in _BINARY_POWER:
        amount = _EXACT.multiply(amount, Decimal(1024 ** _BINARY_POWER[suffix]))
        form = Format.BINARY_SI
    elif suffix:
        amount = _EXACT.scaleb(amount, _DECIMAL_EXPONENT[suffix])
    amount = _bounded(amount, short=form is not Format.BINARY_SI and len(number) <= 18)
    return Quantity(-amount if sign == "-" else amount, form)


@lru_cache(maxsize=8192)
def canonical(text: str | int | float) -> str:
    """The canonical text of any text of a quantity. Raises ValueError."""
    return str(Quantity.parse(text))
