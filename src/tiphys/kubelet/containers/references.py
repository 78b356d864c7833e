"""Names of images: the grammar, the registry, and the default tag.

https://github.com/distribution/reference: `[domain/]path[:tag][@digest]`; without a domain, Docker Hub.
"""

from __future__ import annotations

import re
from typing import Final

_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = rf"(?:{_HOST}(?:\.{_HOST})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_REFERENCE: Final = re.compile(
    rf"^(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?$"
)
DOCKER_HUB: Final = "docker.io"


class InvalidReference(ValueError):
    """The text is no image name; the message is Docker's."""


def with_default_tag(image: str) -> str:
    """`image` with `:latest` where it has neither tag nor digest."""
    match = _match(image)
    return image if match["tag"] or match["digest"] else f"{image}:latest"


def normalize(image: str) -> str:
    """The full name of an image: `busybox` → `docker.io/library/busybox`."""
    match = _match(image)
    domain, slash, rest = match["name"].partition("/")
    if not slash or not (set(domain) & set(".:") or domain == "localhost" or domain != domain.lower()):
        domain, rest = DOCKER_HUB, match["name"]
    if domain == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return f"{domain}/{rest}{image[len(match['name']) :]}"


def registry_of(image: str) -> str:
    return normalize(image).partition("/")[0]


def _match(image: str) -> re.Match[str]:
    match = _REFERENCE.match(image)
    if match is None:
        if image != image.lower() and _REFERENCE.match(image.lower()):
            raise InvalidReference("invalid reference format: repository name must be lowercase")
        raise InvalidReference("invalid reference format")
    return match
