"""How the command line talks to the supervisor: JSON lines over a Unix socket that only the owner can open.

→ {"do": "status"}                 ← {"ok": true, …}
→ {"do": "stop-node", "node": "n"} ← {"ok": false, "error": "there is no node …"}
→ {"do": "watch"}                  ← an event a line, until the caller hangs up
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tiphys.base.log import get_logger
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.process import proportional_memory
from tiphys.cmd.errors import CommandError, UsageError

if TYPE_CHECKING:
    from tiphys.cmd.cluster.daemon import ClusterDaemon

log = get_logger(__name__)

CONNECT_FOR: Final = 5.0  # seconds
MAX_PENDING: Final = 1 << 20  # bytes a watcher may be behind before it is dropped


class ControlServer:
    """The supervisor's end. Everything happens in the supervisor's own loop."""

    def __init__(self, daemon: ClusterDaemon) -> None:
        self._daemon = daemon
        self._socket: socket.socket | None = None
        self._events: list[dict[str, Any]] = []
        self._watchers: dict[socket.socket, Callable[[dict[str, Any]], None]] = {}

    def open(self) -> None:
        """Listen; what a supervisor before this one left is replaced."""
        path = self._daemon.layout.socket
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listening.bind(str(temporary))
        temporary.chmod(0o600)
        listening.listen(16)
        temporary.replace(path)
        self._socket = listening
        self._daemon.supervisor.listen(listening.fileno(), self._accept)
        self._daemon.supervisor.subscribe(self._remember)

    def close(self) -> None:
        """Stop listening and hang up."""
        for connection in list(self._watchers):
            self._hang_up(connection)
        if self._socket is not None:
            self._daemon.supervisor.ignore(self._socket.fileno())
            self._socket.close()
            self._daemon.layout.socket.unlink(missing_ok=True)

    def _remember(self, event: dict[str, Any]) -> None:
        # Enough for a caller that connects a little late to know all that happened since the start.
        if len(self._events) < 1000:
            self._events.append(event)

    def _accept(self) -> None:
        if self._socket is None:
            return
        with suppress(BlockingIOError):
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            buffer = bytearray()
            self._daemon.supervisor.listen(connection.fileno(), lambda: self._receive(connection, buffer))

    def _receive(self, connection: socket.socket, buffer: bytearray) -> None:
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(buffer) > 1 << 16:
            self._hang_up(connection)
            return
        buffer += data
        while b"\n" in buffer:
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer[:] = rest
            self._answer(connection, line)

    def _answer(self, connection: socket.socket, line: bytes) -> None:
        try:
            request = json.loads(line)
            if request.get("do") == "watch":
                self._watch(connection)
                return
            answer = {"ok": True, **self._do(request)}
        except (CommandError, UsageError) as error:
            answer = {"ok": False, "error": str(error)}
        except Exception as error:  # the supervisor goes on, whatever a request met
            log.exception("request %r failed", line[:200])
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        self._send(connection, answer)

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "status":
                return self._status()
            case "add-node":
                return self._daemon.add_node(str(request["node"]))
            case "remove-node":
                return self._daemon.remove_node(str(request["node"]))
            case "stop-node":
                return self._daemon.stop_node(str(request["node"]))
            case "start-node":
                return self._daemon.start_node(str(request["node"]))
            case "stop":
                return self._daemon.stop()
            case other:
                raise UsageError(f"unknown request {other!r}")

    def _status(self) -> dict[str, Any]:
        now = time.monotonic()
        rows = [
            {
                "name": process.component.name,
                "state": process.state,
                "pid": process.pid or None,
                "memory": proportional_memory(process.pid) if process.pid else None,
                "restarts": process.restarts,
                "seconds": round(now - process.started, 1) if process.pid else None,
                "lastExit": process.last_exit or None,
                "command": str(process.component),
            }
            for process in self._daemon.supervisor.processes.values()
        ]
        return {
            "supervisor": {"pid": os.getpid(), "memory": proportional_memory(os.getpid())},
            "processes": rows,
        }

    def _watch(self, connection: socket.socket) -> None:
        def forward(event: dict[str, Any]) -> None:
            self._send(connection, event)

        for event in list(self._events):
            forward(event)
        self._watchers[connection] = forward
        self._daemon.supervisor.subscribe(forward)

    def _send(self, connection: socket.socket, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            # Answers are small and the socket's buffer is large: a caller that does not read is dropped.
            if connection.send(data) != len(data):
                self._hang_up(connection)
        except (BlockingIOError, OSError):
            self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        forward = self._watchers.pop(connection, None)
        if forward is not None:
            self._daemon.supervisor.unsubscribe(forward)
        if connection.fileno() >= 0:
            self._daemon.supervisor.ignore(connection.fileno())
            connection.close()


class ControlClient:
    """The command line's end; blocking."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    @classmethod
    def connect(cls, layout: Layout, *, wait: float = 0.0) -> ControlClient | None:
        """Reach the supervisor, None when there is none; `wait` seconds for one that is about to listen."""
        deadline = time.monotonic() + wait
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(layout.socket))
                return cls(connection)
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
            except PermissionError as error:
                connection.close()
                raise CommandError(f"{layout.socket}: permission denied; run as the user who started it") from error
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.005)

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        """One request and its answer; raises CommandError with what the supervisor says is wrong."""
        self._connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise CommandError("the supervisor ended before it answered; see `tiphys status`")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise CommandError(str(answer["error"]))
        return answer

    def watch(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Events from the supervisor's start on, until it ends.

        Raises TimeoutError after a silence of `timeout` seconds.
        """
        self._connection.sendall(b'{"do": "watch"}\n')
        self._connection.settimeout(timeout)
        with suppress(ConnectionResetError):
            for line in self._lines:
                yield json.loads(line)

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._connection.close()
