"""Processes by pid file, lock and pidfd, so that whoever takes over finds exactly those that still live.

A component takes a lock on its pid file as its first act and holds it until it dies; the kernel
releases it then. So "is it running, and as which process" has one answer even when the supervisor
that forked it is gone, and two of the same component can never run.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress
from pathlib import Path


class AlreadyRunning(Exception):
    """Another process holds the lock of this component."""


def hold(path: Path) -> int:
    """Write this process's pid to `path` and lock it until the process ends; returns the descriptor.

    Raises AlreadyRunning when another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(str(path)) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def holder(path: Path) -> int | None:
    """The pid of the process that holds `path`, None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(ValueError):
            return int(os.pread(descriptor, 32, 0))
        return None
    finally:
        os.close(descriptor)
    return None


def open_process(pid: int) -> int | None:
    """A pidfd: readable once the process has ended. None when it is gone already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to one process; nothing happens when it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def reap() -> dict[int, int]:
    """Collect every child that has ended: pid → wait status."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def proportional_memory(pid: int) -> int | None:
    """Proportional set size in bytes; None when the process is gone or not ours to look at."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
