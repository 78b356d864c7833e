"""Counts that may be given as a percentage."""

from __future__ import annotations

from tiphys.apiserver.registry.validation.meta import validate_non_negative
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path


def int_or_percent_errors(value: int | str | None, path: Path) -> list[FieldError]:
    """Not negative, or a number of percent."""
    if isinstance(value, str):
        return [field.invalid(path, value, message) for message in formats.percent(value)]
    return validate_non_negative(value or 0, path)


def not_more_than_all(value: int | str | None, path: Path) -> list[FieldError]:
    """At most 100%."""
    if isinstance(value, str) and not formats.percent(value) and int(value[:-1]) > 100:
        return [field.invalid(path, value, "must not be greater than 100%")]
    return []


def value_of(value: int | str | None) -> int:
    """The number before the percent sign, or the number itself; 0 for text that is neither."""
    if isinstance(value, str):
        return 0 if formats.percent(value) else int(value[:-1])
    return value or 0
