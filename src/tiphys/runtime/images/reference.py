"""Image references: `nginx` and `docker.io/library/nginx:latest` are the same.

Grammar: https://github.com/distribution/reference. A first part with a dot, a colon or the word localhost is a
registry; otherwise it is Docker Hub's, and one-part names live in its `library`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_TAG: Final = "latest"

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_DOMAIN_PART: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN: Final = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG: Final = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST: Final = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")
MAX_NAME: Final = 255


class InvalidReference(ValueError):
    """The text is no image reference; worded as other runtimes do."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A complete reference: a registry, a repository and a tag, a digest or both."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def registry(self) -> str:
        """Host to talk to: Docker Hub answers at another name than its own."""
        return "registry-1.docker.io" if self.domain == DEFAULT_REGISTRY else self.domain

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    def with_digest(self, digest: str) -> Reference:
        """The same repository, by digest alone."""
        return replace(self, tag="", digest=digest)


def parse(text: str) -> Reference:
    """Complete `text` as Docker does; raises InvalidReference."""
    rest, _, digest = text.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise InvalidReference(f'failed to parse reference "{text}": invalid digest format')
    name, tag = rest, ""
    head, colon, tail = rest.rpartition(":")
    if colon and "/" not in tail:
        name, tag = head, tail
        if not _TAG.fullmatch(tag):
            raise _invalid(text)
    first, slash, remainder = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        domain, path = first, remainder
    else:
        domain, path = DEFAULT_REGISTRY, name
    if domain in ("index.docker.io", "registry-1.docker.io"):
        domain = DEFAULT_REGISTRY
    if domain == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    if not _DOMAIN.fullmatch(domain) or not _PATH.fullmatch(path) or len(f"{domain}/{path}") > MAX_NAME:
        raise _invalid(text)
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(domain, path, tag, digest)


def _invalid(text: str) -> InvalidReference:
    if text != text.lower() and parse_ok(text.lower()):
        return InvalidReference(
            f'failed to parse reference "{text}": invalid reference format: repository name must be lowercase'
        )
    return InvalidReference(f'failed to parse reference "{text}": invalid reference format')


def parse_ok(text: str) -> bool:
    """Whether `text` is a reference."""
    try:
        parse(text)
    except InvalidReference:
        return False
    return True
