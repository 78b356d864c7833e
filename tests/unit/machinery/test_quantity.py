"""Quantities: canonical text, arithmetic, and exactness."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiphys.machinery.quantity import Format, Quantity, canonical

CANONICAL = [
    ("0", "0"),
    ("100m", "100m"),
    ("1500m", "1500m"),
    ("0.5", "500m"),
    ("1.25", "1250m"),
    ("1000", "1k"),
    ("5000", "5k"),
    ("1000000000000", "1T"),
    ("1Gi", "1Gi"),
    ("1024Mi", "1Gi"),
    ("1.5Gi", "1536Mi"),
    ("2000Ki", "2000Ki"),
    ("0.1Ki", "102400m"),
    ("-5Mi", "-5Mi"),
    ("1e3", "1e3"),
    ("12e6", "12e6"),
    ("5E3", "5e3"),
    ("1E", "1E"),
    (".5", "500m"),
    ("10.", "10"),
    ("0.0000000001", "1n"),
    ("1e-12", "1e-9"),
    ("16Ei", "9223372036854775807"),
    ("9999999999999999999", "9223372036854775807"),
    ("1e400", "10e399"),
    (100, "100"),
    (1.5, "1500m"),
]


@pytest.mark.parametrize(("text", "expected"), CANONICAL, ids=[str(text) for text, _ in CANONICAL])
def test_canonical_text(text: str | int | float, expected: str) -> None:
    assert canonical(text) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1 Gi", "Gi", "1gi", "1e", "--1", "1Kib"])
def test_bad_text_is_refused_in_the_servers_words(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        Quantity.parse(text)


def test_values_are_rounded_up() -> None:
    assert Quantity.parse("1001m").value() == 2
    assert Quantity.parse("1.0001").milli_value() == 1001
    assert Quantity.parse("-1.5").value() == -2
    assert str(Quantity.parse("1.00001").round_up(-3)) == "1001m"


def test_equal_by_amount_whatever_the_suffix() -> None:
    assert Quantity.parse("1024Mi") == Quantity.parse("1Gi") == Quantity.parse("1073741824")
    assert hash(Quantity.parse("1k")) == hash(Quantity.parse("1000"))
    assert Quantity.parse("1Ki") > Quantity.parse("1k")


def test_a_sum_keeps_the_suffix_family_of_its_first_part() -> None:
    assert str(Quantity.parse("1Gi") + Quantity.parse("512Mi")) == "1536Mi"
    assert str(Quantity.of(0) + Quantity.parse("512Mi")) == "512Mi"
    assert str(Quantity.parse("2") - Quantity.milli(500)) == "1500m"


@given(st.integers(-(10**18), 10**18), st.sampled_from(list(Format)))
def test_canonical_text_reads_back_as_the_same_amount(milli: int, form: Format) -> None:
    text = str(Quantity.milli(milli, form))
    assert Quantity.parse(text).amount == Decimal(milli).scaleb(-3)
    # Text without a suffix reads back as decimal, whatever it was.
    assert canonical(text) == text or form is Format.BINARY_SI
