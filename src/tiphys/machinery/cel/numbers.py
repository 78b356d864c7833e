"""Doubles as text."""

from __future__ import annotations

import math


def float_text(value: float) -> str:
    """A double with the fewest digits that tell it apart, and an exponent below -4 and from 6 on.

    `1.5`, `100000`, `1e+06`, `1.234567e+06`, `1e-05`, `-0`, `+Inf`, `NaN`.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    mantissa, _, power = repr(value).partition("e")
    sign = "-" if math.copysign(1, value) < 0 else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return f"{sign}0"
    leading = len(whole + fraction) - len(digits)
    exponent = len(whole) - leading - 1 + int(power or 0)
    digits = digits.rstrip("0")
    if -4 <= exponent < 6:
        text = f"{abs(value):.{max(len(digits) - 1 - exponent, 0)}f}"
        return f"{sign}{text}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"
