"""Runs one BIRD: started, told of a new configuration, and started again when it ends.

It dies with this process (parent-death signal), its routes stay in the kernel and with its peers;
the next one takes them over. Blocking; a thread of its own waits for the process.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tiphys.base.log import get_logger

log = get_logger(__name__)

PACKAGE: Final = "bird2"
START_WITHIN: Final = 5.0  # seconds
AGAIN_AFTER: Final = 0.5  # seconds between an end and the next start
_PR_SET_PDEATHSIG: Final = 1


class Bird:
    """`directory` holds its configuration, its log and its control socket."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config, self._control = directory / "bird.conf", directory / "bird.ctl"
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._closing = threading.Event()

    def configure(self, text: str) -> None:
        """Make this the configuration; sessions it does not change go on. Raises OSError when BIRD refuses it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._config.with_name("bird.conf.new")
        temporary.write_text(text)
        temporary.replace(self._config)
        if self._keeper is None:
            self._start()
        else:
            answer = self.ask("configure")
            if "Reconfigur" not in answer:
                raise OSError(f"BIRD refused its configuration: {' '.join(answer.split())[:300]}")

    def ask(self, command: str) -> str:
        """One command of its control socket, and the answer. Raises OSError while BIRD is not there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(START_WITHIN)
            channel.connect(str(self._control))
            _answer(channel)  # its greeting
            channel.sendall(f"{command}\n".encode())
            return _answer(channel)

    def close(self) -> None:
        """End it. Routes stay in the kernel."""
        self._closing.set()
        process, keeper = self._process, self._keeper
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
        if keeper is not None:
            keeper.join(START_WITHIN)
            self._keeper = None

    def _start(self) -> None:
        program = shutil.which("bird", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise OSError(f'the program "bird" is missing: network bgp needs it (Debian package {PACKAGE})')
        checked = subprocess.run([program, "-p", "-c", str(self._config)], capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            raise OSError(f"BIRD refused its configuration: {' '.join(checked.stderr.split())[:300]}")
        self._control.unlink(missing_ok=True)
        self._closing.clear()
        self._keeper = threading.Thread(target=self._keep, args=(program,), name="bird", daemon=True)
        self._keeper.start()
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            with suppress(OSError):
                self.ask("show status")
                return
            time.sleep(0.02)
        raise OSError(f"BIRD did not start within {START_WITHIN:.0f} s; see {self._directory / 'bird.log'}")

    def _keep(self, program: str) -> None:
        """In the thread, which lives as long as its child: the parent-death signal is the thread's."""
        command = [program, "-f", "-R", "-c", str(self._config), "-s", str(self._control)]
        libc = ctypes.CDLL(None)
        while not self._closing.is_set():
            with (self._directory / "bird.log").open("ab") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
                )
            status = self._process.wait()
            if not self._closing.wait(AGAIN_AFTER):
                log.warning("BIRD ended with status %d; starting it again", status)


def _answer(channel: socket.socket) -> str:
    """Lines until one that begins with four digits and a space; those with "-" instead go on."""
    text = b""
    while True:
        piece = channel.recv(65536)
        if not piece:
            raise OSError("BIRD closed its control socket")
        text += piece
        if text.endswith(b"\n"):
            last = text.rstrip(b"\n").rsplit(b"\n", 1)[-1]
            if last[:4].isdigit() and last[4:5] in (b" ", b""):
                return text.decode(errors="replace")
