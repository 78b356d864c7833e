"""A number of something, or a percentage of a total: `3` or `"25%"`."""

from __future__ import annotations

import re

IntOrString = int | str

_PERCENT = re.compile(r"^[0-9]+%$")


def percent(value: IntOrString) -> int | None:
    """The percentage a value names, or None when it is not one."""
    return int(value[:-1]) if isinstance(value, str) and _PERCENT.match(value) else None


def scaled_value(value: IntOrString, total: int, round_up: bool) -> int:
    """The number that `value` means of `total`; percentages are rounded up or down.

    Raises ValueError for text that is not a percentage.
    """
    if isinstance(value, int):
        return value
    share = percent(value)
    if share is None:
        raise ValueError(f'invalid value for IntOrString: invalid type: string is not a percentage: "{value}"')
    return -(-share * total // 100) if round_up else share * total // 100
