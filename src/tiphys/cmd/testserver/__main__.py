"""The fork server: `python -m tiphys.cmd.testserver --control FD --directory DIR`.

A message on the control socket is the settings of a cluster in JSON, together with one end of a socket to talk to it
through. The first cluster is forked as soon as the API server is imported, and imports the controllers itself once it
serves; for the forks to come they are imported here, when nothing else is to be done.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import orjson
import setproctitle

from tiphys.base.log import setup_logging

CHILD: Final = "tiphys.cmd.testserver.child"
# A message is the settings of one cluster: a few hundred bytes.
LARGEST_MESSAGE: Final = 1 << 16
# A cluster that was just forked has the machine to itself for so long (seconds).
IDLE: Final = 0.2
STOP_GRACE: Final = 5.0  # seconds between SIGTERM and SIGKILL


def main() -> int:
    """Fork clusters until the control socket ends; then end them all and remove the directory."""
    flags = argparse.ArgumentParser(prog="tiphys.cmd.testserver", description="clusters for tests")
    flags.add_argument("--control", type=int, required=True)
    flags.add_argument("--directory", type=Path, required=True)
    found = flags.parse_args()
    setup_logging()
    setproctitle.setproctitle("tiphys: test clusters")
    # The terminal's interrupt is for the test run, which ends us by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=found.control)
    control.set_inheritable(False)
    children: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: _reap(children))
    _import(CHILD)
    try:
        while True:
            if children and not _message_within(control, IDLE):
                _preload()
            message, descriptors, _, _ = socket.recv_fds(control, LARGEST_MESSAGE, 1)
            if not message:
                return 0
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                _become_cluster(message, descriptors[0])
            os.close(descriptors[0])
            children.append(pid)
            _reap(children)  # it may have ended before it was in the list
    finally:
        _end(children)
        shutil.rmtree(found.directory, ignore_errors=True)


def _message_within(control: socket.socket, seconds: float) -> bool:
    return bool(select.select([control], [], [], seconds)[0])


def _preload() -> None:
    """Import the controllers for the clusters to come."""
    controllers = sys.modules[CHILD].CONTROLLERS
    if controllers not in sys.modules:
        _import(controllers)


def _import(name: str) -> None:
    """Nothing of a module is garbage: looking for some takes a fifth of the time, and later parts what forks share."""
    gc.disable()
    importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _become_cluster(message: bytes, descriptor: int) -> NoReturn:
    status = 1
    try:
        child = sys.modules[CHILD]
        child.serve(child.Settings.from_json(orjson.loads(message)), socket.socket(fileno=descriptor))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def _reap(children: list[int]) -> None:
    """Collect those that have ended, and take them off the list."""
    for pid in list(children):
        with suppress(ChildProcessError, ValueError):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                children.remove(pid)


def _end(children: list[int]) -> None:
    """End the clusters; their stores are durable, or forgotten anyway."""
    for pid in list(children):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_GRACE
    while children and time.monotonic() < deadline:
        time.sleep(0.005)
        _reap(children)
    for pid in list(children):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
