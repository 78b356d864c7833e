"""A stage of an image being built: an overlay of its base's layers under one new layer."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiphys.runtime.spec import users


class BuildError(Exception):
    """The image cannot be built; the text names the line."""


@dataclass(slots=True)
class Stage:
    """A stage being built."""

    base: tuple[str, ...]  # layer names, lowest first
    diff_ids: list[str]
    config: dict[str, Any]
    merged: Path
    upper: Path
    history: list[dict[str, Any]] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    size: int = 0

    def values(self) -> dict[str, str]:
        """What `$name` means: build arguments under the environment."""
        environment = dict(entry.split("=", 1) for entry in self.config.get("Env") or [])
        return {**self.arguments, **environment}

    def user(self, text: str, *, with_groups: bool) -> users.User:
        """Who `text` ("name", "uid:gid", …) is in the stage's own files. Raises BuildError."""
        fd = os.open(self.merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return users.resolve(
                text,
                run_as_group=None,
                supplemental=(),
                merge_image_groups=with_groups,
                passwd=users.passwd_entries(users.read_lines(fd, "/etc/passwd")),
                group=users.group_entries(users.read_lines(fd, "/etc/group")),
            )
        except users.UserNotFound as error:
            raise BuildError(str(error)) from error
        finally:
            os.close(fd)

    def owner(self, text: str) -> tuple[int, int]:
        """User and group for `--chown`; root without one. Raises BuildError."""
        if not text:
            return 0, 0
        found = self.user(text, with_groups=False)
        return found.uid, found.gid if ":" in text or not text.isdigit() else int(text)


def moment() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
