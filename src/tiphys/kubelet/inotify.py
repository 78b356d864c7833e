"""inotify(7) for asyncio: know at once that a file or directory has changed."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

MODIFY: Final = 0x2
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
MOVE_SELF: Final = 0x800
DELETE_SELF: Final = 0x400
DIRECTORY_CHANGES: Final = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Watches paths and calls `on_change()` in the loop when any of them changes. Close it, or use it with `with`."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._readable)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def watch(self, path: Path | str, mask: int) -> None:
        """Watch one more path. Raises FileNotFoundError."""
        if _libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _readable(self) -> None:
        try:
            os.read(self._descriptor, 65536)  # which path and why does not matter: the listener looks itself
        except BlockingIOError:
            return
        self._on_change()
