"""What `up` shows while it works: a line a part with the time it took; on a terminal the current part moves."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """Prints the parts of long work. Times are in seconds since the work began."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._began = time.monotonic()
        self._doing = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._began

    def line(self, text: str = "") -> None:
        """A plain line."""
        self._clear()
        print(text, file=self._out, flush=True)
        self._show()

    def doing(self, what: str) -> None:
        """Show on a terminal what is going on now; in a pipe nothing."""
        self._clear()
        self._doing = what
        self._show()

    def done(self, what: str, took: float | None = None, note: str = "") -> None:
        """A finished part and the seconds it took."""
        time_text = f"{took:6.2f} s" if took is not None else " " * 8
        self.line(f"  {what:<34}{time_text}{'  ' + note if note else ''}".rstrip())

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Do a part and say how long it took."""
        began = time.monotonic()
        self.doing(what)
        yield
        self._doing = ""
        self.done(what, time.monotonic() - began)

    def end(self) -> None:
        """Nothing goes on any more."""
        self.doing("")

    def _clear(self) -> None:
        if self._terminal and self._doing:
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def _show(self) -> None:
        if self._terminal and self._doing:
            room = shutil.get_terminal_size().columns - 5  # a line that wraps could not be taken back
            print(f"  {self._doing[:room]} …", end="", file=self._out, flush=True)
