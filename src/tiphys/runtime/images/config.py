"""The image configuration: what an image says about the process to run in it.

https://github.com/opencontainers/image-spec/blob/main/config.md; Docker's documents have the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
        """From the decoded JSON document; missing and null fields are empty."""
        config = document.get("config") or {}
        return cls(
            entrypoint=tuple(config.get("Entrypoint") or ()),
            cmd=tuple(config.get("Cmd") or ()),
            env=tuple(config.get("Env") or ()),
            working_dir=config.get("WorkingDir") or "",
            user=config.get("User") or "",
            stop_signal=config.get("StopSignal") or "",
            volumes=tuple(sorted(config.get("Volumes") or ())),
            labels=dict(config.get("Labels") or {}),
            diff_ids=tuple((document.get("rootfs") or {}).get("diff_ids") or ()),
        )
