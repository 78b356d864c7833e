"""The last words of a container: its termination message file, or the end of its log.

https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from tiphys.kubelet.cri import labels
from tiphys.kubelet.cri.state import RuntimeContainer
from tiphys.kubelet.server.logformat import parse_line

MAX_BYTES: Final = 4096
MAX_LOG_BYTES: Final = 2048
MAX_LOG_LINES: Final = 80
DEFAULT_PATH: Final = "/dev/termination-log"
FALLBACK: Final = "FallbackToLogsOnError"


def new_message_file(directory: Path) -> Path:
    """An empty file, writable by whatever user the container runs as."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / secrets.token_hex(4)
    path.touch()
    path.chmod(0o666)  # the umask must not narrow it
    return path


def termination_message(container: RuntimeContainer) -> str:
    """What the container left behind; the runtime's own message where it left nothing. Reads files."""
    notes = container.annotations
    message = _read_head(notes.get(labels.TERMINATION_MESSAGE_FILE, ""))
    if message:
        return message
    if notes.get(labels.TERMINATION_MESSAGE_POLICY) == FALLBACK and container.exit_code != 0:
        message = _log_tail(container.log_path)
    return message or container.message


def _read_head(path: str) -> str:
    if not path:
        return ""
    try:
        # The container owned this file: it may have become anything, so no links and no waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_BYTES).decode(errors="replace")


def _log_tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            # Each line carries a header of some 40 bytes: read enough to fill the limit with content.
            file.seek(max(0, size - MAX_LOG_BYTES * 8))
            lines = file.read().splitlines()
    except OSError:
        return ""
    content = b"".join(line.content for line in map(parse_line, lines[-MAX_LOG_LINES:]) if line is not None)
    return content[-MAX_LOG_BYTES:].decode(errors="replace")
