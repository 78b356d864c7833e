"""The image configuration: what an image says about the process to run in it.

https://github.com/opencontainers/image-spec/blob/main/config.md; Docker's documents have the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class MalformedDocument(ValueError):
    """A document of an image is not of the form it must have; the text says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """Defaults for a container; all optional."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    diff_ids: tuple[str, ...] = ()  # digests of the uncompressed layers, lowest first

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> ImageConfig:
        """From the decoded JSON document; missing and null fields are empty. Raises MalformedDocument."""
        config = mapping(document, "config")
        return cls(
            entrypoint=texts(config, "Entrypoint"),
            cmd=texts(config, "Cmd"),
            env=texts(config, "Env"),
            working_dir=_text(config, "WorkingDir"),
            user=_text(config, "User"),
            stop_signal=_text(config, "StopSignal"),
            volumes=tuple(sorted(mapping(config, "Volumes"))),
            labels={name: str(value) for name, value in mapping(config, "Labels").items()},
            diff_ids=texts(mapping(document, "rootfs"), "diff_ids"),
        )


def mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object in a field; {} for none."""
    found = document.get(name) or {}
    if not isinstance(found, Mapping):
        raise MalformedDocument(f"{name} is no object")
    return found


def items(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The list of objects in a field; [] for none."""
    found = document.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise MalformedDocument(f"{name} is no list of objects")
    return found


def _text(document: Mapping[str, Any], name: str) -> str:
    found = document.get(name) or ""
    if not isinstance(found, str) or "\0" in found:
        raise MalformedDocument(f"{name} is no text")
    return found


def texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The list of texts in a field; () for none."""
    found = document.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, str) and "\0" not in item for item in found):
        raise MalformedDocument(f"{name} is no list of texts")
    return tuple(found)
