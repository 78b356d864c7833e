"""Which standard a namespace asks for: level and version for each of the three modes, read from its labels.

    pod-security.kubernetes.io/enforce: restricted            what breaks it is refused
    pod-security.kubernetes.io/enforce-version: v1.24         the standard as of that release ("latest": the newest)
    pod-security.kubernetes.io/audit, …/warn                  noted for audit, told to the client

https://kubernetes.io/docs/concepts/security/pod-security-admission/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

PREFIX: Final = "pod-security.kubernetes.io/"
LABELS: Final = Path("metadata").child("labels")
LATEST: Final = 1 << 30  # newer than every minor version
_VERSION: Final = re.compile(r"v1\.(0|[1-9]\d{0,8})")


class Level(IntEnum):
    """How much a standard forbids; a greater level forbids more."""

    PRIVILEGED = 0
    BASELINE = 1
    RESTRICTED = 2


LEVELS: Final = {level.name.lower(): level for level in Level}


@dataclass(frozen=True, slots=True)
class Standard:
    """A level as of a minor version of Kubernetes."""

    level: Level = Level.PRIVILEGED
    minor: int = LATEST

    def __str__(self) -> str:
        version = "latest" if self.minor == LATEST else f"v1.{self.minor}"
        return f"{self.level.name.lower()}:{version}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a namespace wants, and what is wrong with its labels."""

    enforce: Standard
    audit: Standard
    warn: Standard
    errors: tuple[FieldError, ...] = ()

    @property
    def ignores_everything(self) -> bool:
        """Whether there is nothing to check in any mode."""
        return self.enforce.level is self.audit.level is self.warn.level is Level.PRIVILEGED


def policy_of(own: Mapping[str, str], defaults: Mapping[str, str] | None = None) -> Policy:
    """The policy of a namespace with these labels; `defaults` are labels where it has none.

    Labels that cannot be understood are errors. Until they are mended the namespace is enforced as restricted, while
    audit and warn, which protect nothing, stay quiet.
    """
    errors: list[FieldError] = []
    labels = {**defaults, **own} if defaults else own
    enforce = _standard(labels, "enforce", Level.RESTRICTED, errors)
    audit = _standard(labels, "audit", Level.PRIVILEGED, errors)
    warn = _standard(labels, "warn", Level.PRIVILEGED, errors)
    # Whoever enforces wants to be warned when a Deployment makes pods that will be refused.
    valid = own.get(PREFIX + "enforce") in LEVELS
    if valid and PREFIX + "warn" not in own and enforce.level > warn.level:
        warn = Standard(enforce.level, warn.minor if PREFIX + "warn-version" in labels else enforce.minor)
    return Policy(enforce, audit, warn, tuple(errors))


def _standard(labels: Mapping[str, str], mode: str, fallback: Level, errors: list[FieldError]) -> Standard:
    level, minor = Level.PRIVILEGED, LATEST
    label = PREFIX + mode
    text = labels.get(label)
    if text is not None:
        known = LEVELS.get(text)
        if known is None:
            errors.append(field.invalid(LABELS.key(label), text, "must be one of privileged, baseline, restricted"))
        level = fallback if known is None else known
    text = labels.get(label + "-version")
    if text is not None and text != "latest":
        match = _VERSION.fullmatch(text)
        if match is None:
            errors.append(field.invalid(LABELS.key(label + "-version"), text, 'must be "latest" or "v1.x"'))
        else:
            minor = int(match[1])
    return Standard(level, minor)
