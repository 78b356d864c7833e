"""Monitors (conmon) that an earlier process of this runtime started: found by their command line.

Their pid files do not do: a monitor may be on its way before it has written one.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

PAUSE: Final = 0.005  # seconds
END: Final = 2.0  # seconds a killed process may take to go


def find(container_id: str) -> list[int]:
    """The pids of the container's monitors, and of OCI runtimes that create it for them."""
    wanted, found = container_id.encode(), []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                if wanted in words:
                    found.append(int(entry.name))
    return found


def wait_for_pid(container_id: str, pid_file: Path, seconds: float) -> None:
    """Return when the container's monitor has written the pid of its process, or is gone. Blocks."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not _has_text(pid_file) and find(container_id):
        time.sleep(PAUSE)


def kill(container_id: str) -> None:
    """End the container's monitors and whatever they are about; returns when they are gone. Blocks."""
    deadline = time.monotonic() + END
    while time.monotonic() < deadline and (pids := find(container_id)):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE)


def _has_text(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
