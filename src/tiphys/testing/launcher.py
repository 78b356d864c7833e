"""Launcher: this process's one fork server, started when the first cluster is wanted, ended with this process."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

MODULE: Final = "tiphys.cmd.testserver"
STOP_TIMEOUT: Final = 15.0  # seconds
LOG_LINES: Final = 15


class ClusterError(Exception):
    """A cluster could not be started, or is gone; says why in one line, then the end of its log."""


class Launcher:
    """A fork server and the directory of its clusters. `close` ends them all."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tiphys-test-"))
        self._clusters = 0
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", MODULE, f"--control={theirs.fileno()}", f"--directory={self.directory}"]
        with (self.directory / "log").open("wb") as log, theirs:
            # A session of its own: an interrupt from the terminal ends the tests first.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The fork server's process; the clusters are its children."""
        return self._process.pid

    def fork(self, settings: dict[str, Any]) -> socket.socket:
        """Ask for a cluster; the socket is the conversation with it. Raises ClusterError."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            self._clusters += 1
            message = {**settings, "directory": str(self.directory / f"{self._clusters}")}
            try:
                socket.send_fds(self._control, [json.dumps(message).encode()], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise ClusterError(f"the test server has ended ({error}){self.log_tail()}") from error
        return ours

    def log_tail(self) -> str:
        """The last lines of the log, for an error message; "" without any."""
        try:
            lines = (self.directory / "log").read_text(errors="replace").splitlines()[-LOG_LINES:]
        except OSError:
            return ""
        return "".join(f"\n  {line}" for line in lines)

    def close(self) -> None:
        """End the clusters and remove their files. May be called twice."""
        self._control.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


_current: tuple[int, Launcher] | None = None
_guard = threading.Lock()


def launcher() -> Launcher:
    """The fork server of this process, started now if there is none. One that was inherited by a fork is not ours."""
    global _current
    with _guard:
        if _current is None or _current[0] != os.getpid() or _current[1]._process.poll() is not None:
            _current = (os.getpid(), Launcher())
        return _current[1]


def close() -> None:
    """End the fork server of this process, if there is one."""
    global _current
    with _guard:
        if _current is not None and _current[0] == os.getpid():
            _current[1].close()
        _current = None


atexit.register(close)
