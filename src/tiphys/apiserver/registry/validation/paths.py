"""Names in the form of a path in a domain, such as `acme.io/foo`."""

from __future__ import annotations

import re
from typing import Final

from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

PATH: Final = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
_path = re.compile(PATH, re.ASCII)


def domain_path_errors(value: str, path: Path) -> list[FieldError]:
    """Errors of a name that must be a DNS subdomain, a slash and a path."""
    if not value:
        return [field.required(path, "")]
    domain, slash, rest = value.partition("/")
    if not slash or not domain or not rest:
        return [field.invalid(path, value, 'must be a domain-prefixed path (such as "acme.io/foo")')]
    errors = [field.invalid(path, domain, message) for message in formats.dns1123_subdomain(domain)]
    if not _path.fullmatch(rest):
        errors.append(field.invalid(path, rest, f"Invalid path (regex used for validation is '{PATH}')"))
    return errors
