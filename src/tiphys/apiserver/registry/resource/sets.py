"""Lists of the resource group whose items differ: how many there may be, what each must be, none of them twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

MAX_DRIVER_BYTES = 63
MAX_NAME_BYTES = 32
T = TypeVar("T")


def set_errors(
    items: Sequence[T],
    path: Path,
    maximum: int,
    check: Callable[[T, Path], list[FieldError]],
    key: Callable[[T], Any] | None = None,
) -> list[FieldError]:
    """Errors of `items` at `path`; of too many of them, that alone.

    `check` judges one item, `key` is what must differ (None: nothing must).
    """
    if len(items) > maximum:
        return [field.too_many(path, len(items), maximum)]
    errors = [error for index, item in enumerate(items) for error in check(item, path.index(index))]
    if key is None:
        return errors
    seen: set[Any] = set()
    for index, item in enumerate(items):
        value = key(item)
        if value in seen:
            errors.append(field.duplicate(path.index(index), value))
        seen.add(value)
    return errors


def label_errors(value: str, path: Path) -> list[FieldError]:
    """Errors of a DNS label."""
    return [field.invalid(path, value, message) for message in formats.dns1123_label(value)]


def required_label_errors(value: str, path: Path) -> list[FieldError]:
    """Errors of a DNS label that must be there."""
    return label_errors(value, path) if value else [field.required(path, "")]


def driver_errors(driver: str, path: Path) -> list[FieldError]:
    """Errors of the name of a driver: a domain, in either case, of at most 63 bytes."""
    if not driver:
        return [field.required(path, "")]
    return _domain_errors(driver, path)


def _domain_errors(domain: str, path: Path) -> list[FieldError]:
    errors = [field.too_long(path, domain, MAX_DRIVER_BYTES)] if len(domain.encode()) > MAX_DRIVER_BYTES else []
    return errors + [field.invalid(path, domain, one) for one in formats.dns1123_subdomain(domain.lower())]


def identifier_errors(name: str, path: Path) -> list[FieldError]:
    """Errors of a C identifier of at most 32 bytes."""
    errors = [field.too_long(path, name, MAX_NAME_BYTES)] if len(name.encode()) > MAX_NAME_BYTES else []
    return errors + [field.invalid(path, name, message) for message in formats.c_identifier(name)]


def qualified_errors(name: str, path: Path) -> list[FieldError]:
    """Errors of `identifier` or `domain/identifier`; names with more slashes are let through, as the API does."""
    parts = name.split("/")
    if len(parts) == 1:
        return identifier_errors(name, path)
    if len(parts) > 2:
        return []
    domain, identifier = parts
    errors = _domain_errors(domain, path) if domain else [field.invalid(path, "", "the domain must not be empty")]
    if not identifier:
        return [*errors, field.invalid(path, "", "the name must not be empty")]
    return errors + identifier_errors(identifier, path)


def full_name_errors(name: str, path: Path) -> list[FieldError]:
    """Errors of `domain/identifier`."""
    errors = qualified_errors(name, path)
    if "/" not in name:
        detail = "a fully qualified name must be a domain and a name separated by a slash"
        errors.append(field.invalid(path, name, detail))
    return errors
