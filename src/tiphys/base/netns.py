"""Network namespaces: open a socket in one, or run a function in one, without moving the caller.

Entering a namespace moves one thread only. `call_in` uses a thread of its own, so that a failure
on the way back can never leave the caller's thread somewhere else.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

CLONE_NEWNET: Final = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def enter(netns: str | int) -> None:
    """Move the calling thread into the network namespace at a path or of an open file.

    Raises FileNotFoundError when the path is gone, OSError when the kernel refuses.
    """
    opened = os.open(netns, os.O_RDONLY | os.O_CLOEXEC) if isinstance(netns, str) else netns
    try:
        if _libc.setns(opened, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), netns)
    finally:
        if isinstance(netns, str):
            os.close(opened)


def call_in(netns: str | int, function: Callable[[], T]) -> T:
    """The result of `function()` run in a network namespace; its exception is raised here. Blocks."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            enter(netns)
            results.append(function())
        except BaseException as error:  # handed to the caller below, whatever it is
            errors.append(error)

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
