"""The pull policy an image reference implies.

    [domain/]path[:tag][@digest]

https://kubernetes.io/docs/concepts/containers/images/#imagepullpolicy-defaulting
"""

import re
from typing import Final

MAX_NAME: Final = 255
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN_PART: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_SUFFIX: Final = (
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?P<digest>@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_reference = re.compile(rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*){_SUFFIX}", re.ASCII)
_identifier = re.compile(r"[a-f0-9]{64}", re.ASCII)


def pull_policy_for(image: str) -> str:
    """Always for `:latest` or an image with neither tag nor digest, else IfNotPresent; also for what is no image."""
    found = _reference.fullmatch(image)
    if found is None or _identifier.fullmatch(image) or _name_length(found) > MAX_NAME:
        return "IfNotPresent"
    if found["tag"]:
        return "Always" if found["tag"] == "latest" else "IfNotPresent"
    return "IfNotPresent" if found["digest"] else "Always"


def _name_length(found: re.Match[str]) -> int:
    """Of the whole name, with the domain and folder that short names leave out."""
    if found["domain"]:
        return len(found["domain"]) + 1 + len(found["path"])
    return len("docker.io/" if "/" in found["path"] else "docker.io/library/") + len(found["path"])
