"""Warnings leave within the limits of the v1.36 API server; the numbers are what it answered."""

from __future__ import annotations

import pytest

from tiphys.apiserver.endpoints.warning_headers import warning_headers


def texts(*warnings: str) -> list[str]:
    return [value.removeprefix('299 - "').removesuffix('"') for _, value in warning_headers(warnings)]


def test_each_text_goes_out_once_and_quoted() -> None:
    assert warning_headers(["a", 'un"known\n', "a"]) == [("Warning", '299 - "a"'), ("Warning", '299 - "un\\"known "')]


def test_the_bytes_are_utf_8() -> None:
    ((_, value),) = warning_headers(["é"])
    assert value.encode("latin-1") == '299 - "é"'.encode()


@pytest.mark.parametrize(
    ("lengths", "sent"),
    [
        pytest.param([4096], [4096], id="as-long-as-may-be"),
        pytest.param([4097], [256], id="one-too-long"),
        pytest.param([256] * 16, [256] * 16, id="sixteen"),
        pytest.param([319] * 30, [256] * 16, id="many-long-ones"),
        pytest.param([3000, 26, 2000, 27], [256, 26, 256, 27], id="short-ones-stay"),
        pytest.param([200] * 21 + [17], [200] * 21, id="the-last-may-go-beyond"),
    ],
)
def test_what_is_too_much_is_cut(lengths: list[int], sent: list[int]) -> None:
    found = texts(*(f"{number:02d}".ljust(length, "x") for number, length in enumerate(lengths)))
    assert [len(text) for text in found] == sent
