"""Numbers and percentages of a total."""

from __future__ import annotations

import pytest

from tiphys.machinery.intstr import IntOrString, percent, scaled_value


@pytest.mark.parametrize(
    ("value", "total", "round_up", "expected"),
    [(3, 10, True, 3), ("25%", 10, True, 3), ("25%", 10, False, 2), ("0%", 10, True, 0), ("100%", 3, False, 3)],
)
def test_scaled(value: IntOrString, total: int, round_up: bool, expected: int) -> None:
    assert scaled_value(value, total, round_up) == expected


@pytest.mark.parametrize("value", ["25", "x%", "-5%", ""])
def test_text_that_is_no_percentage(value: str) -> None:
    assert percent(value) is None
    with pytest.raises(ValueError, match="invalid value for IntOrString"):
        scaled_value(value, 10, True)
