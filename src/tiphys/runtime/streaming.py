"""The HTTP server behind the URLs that Exec, Attach and PortForward return.

A URL carries a token that is good once and for `TOKEN_LIFE`; what is to be done was fixed when it was made, so
nothing in the request can change it. The kubelet (or crictl) connects and its bytes are passed on to kubectl.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tiphys.base.log import get_logger
from tiphys.machinery.streaming import http, portforward, remotecommand
from tiphys.machinery.streaming.bytestream import SocketStream
from tiphys.machinery.streaming.remotecommand import STDERR, STDOUT, Session, Streams
from tiphys.runtime import namespaces
from tiphys.runtime.container import Container
from tiphys.runtime.containers import Containers
from tiphys.runtime.errors import RuntimeFault
from tiphys.runtime.exec import ExecProcess, Execs
from tiphys.runtime.node import Node

log = get_logger(__name__)

TOKEN_LIFE: Final = 60.0  # seconds
MAX_TOKENS: Final = 1000
DRAIN: Final = 2.0  # seconds to wait for output a process left to its children


@dataclass(frozen=True, slots=True)
class ExecTarget:
    """A command to run."""

    container: Container
    argv: tuple[str, ...]
    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool


@dataclass(frozen=True, slots=True)
class AttachTarget:
    """A container whose own streams are joined."""

    container: Container
    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool


@dataclass(frozen=True, slots=True)
class PortForwardTarget:
    """A pod whose ports are reached. `netns` is "" for the node's network."""

    sandbox_id: str
    netns: str
    ports: tuple[int, ...]


Target = ExecTarget | AttachTarget | PortForwardTarget


class StreamingServer:
    """Serves the streams of one runtime on a loopback address."""

    def __init__(self, node: Node, execs: Execs, containers: Containers) -> None:
        self._node = node
        self._execs = execs
        self._containers = containers
        self._tokens: dict[str, tuple[float, Target]] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._url = ""

    async def start(self) -> None:
        """Listen; a port of 0 takes any free one."""
        address = self._node.options.streaming_address
        self._server = await asyncio.start_server(self._connected, address, self._node.options.streaming_port)
        host, port = self._server.sockets[0].getsockname()[:2]
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        """Close the listener and every stream."""
        if self._server is not None:
            self._server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()

    def offer(self, target: Target) -> str:
        """A URL that does this once."""
        moment = time.monotonic()
        for token in [key for key, (made, _) in self._tokens.items() if moment - made > TOKEN_LIFE]:
            del self._tokens[token]
        if len(self._tokens) >= MAX_TOKENS:
            raise RuntimeFault("maximum number of in-flight requests exceeded")
        token = secrets.token_urlsafe(12)
        self._tokens[token] = (moment, target)
        kind = {ExecTarget: "exec", AttachTarget: "attach", PortForwardTarget: "portforward"}[type(target)]
        return f"{self._url}/{kind}/{token}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        stream = SocketStream(reader, writer)
        try:
            await self._serve(reader, stream)
        except asyncio.CancelledError:
            pass  # the runtime stops; asyncio's own callback would log this as an error
        except http.HTTPError as error:
            with contextlib.suppress(OSError):
                await stream.write(http.plain_response(error.status, str(error)))
        except (OSError, EOFError) as error:
            log.debug("a streaming client went away: %r", error)
        except Exception:
            log.exception("a stream failed")
        finally:
            self._connections.discard(task)
            await stream.close()

    async def _serve(self, reader: asyncio.StreamReader, stream: SocketStream) -> None:
        head = http.parse_request(await http.read_head(reader))
        made, target = self._tokens.pop(head.path.rpartition("/")[2], (0.0, None))
        if target is None or time.monotonic() - made > TOKEN_LIFE:
            raise http.HTTPError(404, "the streaming token is unknown or has been used")
        if isinstance(target, PortForwardTarget):
            await portforward.serve(head, stream, lambda port: self._dial(target, port), target.ports)
        elif isinstance(target, ExecTarget):
            exec_target = target
            await remotecommand.serve(head, stream, _streams(target), lambda session: self._exec(session, exec_target))
        else:
            attach_target = target
            await remotecommand.serve(
                head, stream, _streams(target), lambda session: self._attach(session, attach_target)
            )

    # ---- exec

    async def _exec(self, session: Session, target: ExecTarget) -> None:
        try:
            running = await self._execs.start(target.container, target.argv, stdin=target.stdin, tty=target.tty)
        except RuntimeFault as error:
            await session.finish(_internal_error(f"error executing command in container: {error}"))
            return
        helpers = [
            asyncio.ensure_future(_copy_stdin(session, running)),
            asyncio.ensure_future(_resize(session, running.resize)),
        ]
        outputs = [asyncio.ensure_future(_copy_output(session, running, channel)) for channel in (STDOUT, STDERR)]
        try:
            code = await running.wait()
            await asyncio.wait(outputs, timeout=DRAIN)
            await session.finish(remotecommand.exit_status(list(target.argv), code))
        finally:
            for task in (*helpers, *outputs):
                task.cancel()
            try:
                await asyncio.gather(*helpers, *outputs, return_exceptions=True)
            finally:
                running.close()  # where the client left, the process goes on until it notices

    # ---- attach

    async def _attach(self, session: Session, target: AttachTarget) -> None:
        container = target.container
        try:
            connection = self._connect_monitor(container)
        except OSError as error:
            await session.finish(_internal_error(f"error attaching to container: {error.strerror}"))
            return
        loop = asyncio.get_running_loop()

        async def inputs() -> None:
            while data := await session.read_stdin():
                await loop.sock_sendall(connection, data)
            # conmon takes the end of what is written for the end of the container's input.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

        def resize(width: int, height: int) -> None:
            with contextlib.suppress(RuntimeFault, OSError):
                self._containers.control(container, 1, height, width)

        helpers = [asyncio.ensure_future(_resize(session, resize))]
        if target.stdin:
            helpers.append(asyncio.ensure_future(inputs()))
        try:
            # Each packet begins with the stream: 2 is standard output, 3 is standard error.
            while packet := await loop.sock_recv(connection, 64 << 10):
                channel = STDERR if packet[0] == 3 else STDOUT
                if target.stdout if channel == STDOUT else target.stderr:
                    await session.write(channel, packet[1:])
            await session.finish(remotecommand.SUCCESS)
        finally:
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            connection.close()

    def _connect_monitor(self, container: Container) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        # Through /proc the path is short enough wherever the bundle is.
        directory = os.open(self._node.options.bundle(container.id), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/attach")
        except OSError:
            connection.close()
            raise
        finally:
            os.close(directory)
        return connection

    # ---- port forwarding

    async def _dial(self, target: PortForwardTarget, port: int) -> portforward.Pipe:
        """Connect to the pod's own loopback address: a socket belongs to the namespace it was made in."""
        loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            connection = await self._node.blocking(_socket_inside, target.netns, family)
            try:
                await loop.sock_connect(connection, (address, port))
            except OSError as error:
                connection.close()
                failure = failure or error
                continue
            except BaseException:
                connection.close()
                raise
            reader, writer = await asyncio.open_connection(sock=connection)
            return SocketStream(reader, writer)
        why = os.strerror(failure.errno or 0).lower() if failure is not None else ""
        raise OSError(
            f"failed to connect to localhost:{port} inside the pod: dial tcp 127.0.0.1:{port}: connect: {why}"
        )


def _internal_error(message: str) -> Mapping[str, Any]:
    """The Status of a stream that could not be joined, worded as kubelets' streaming servers do."""
    return remotecommand.failure_status(f"Internal error occurred: {message}")


def _socket_inside(netns: str, family: socket.AddressFamily) -> socket.socket:
    made = namespaces.inside(netns, lambda: socket.socket(family, socket.SOCK_STREAM))
    made.setblocking(False)
    return made


def _streams(target: ExecTarget | AttachTarget) -> Streams:
    return Streams(target.stdin, target.stdout, target.stderr and not target.tty, target.tty)


async def _copy_stdin(session: Session, running: ExecProcess) -> None:
    if running.stdin is None:
        return
    try:
        while data := await session.read_stdin():
            await running.stdin.write(data)
    except OSError:
        pass  # the process reads no more
    finally:
        running.stdin.close()


async def _copy_output(session: Session, running: ExecProcess, channel: int) -> None:
    stream = running.stdout if channel == STDOUT else running.stderr
    if stream is not None:
        while data := await stream.read():
            with contextlib.suppress(OSError):
                await session.write(channel, data)


async def _resize(session: Session, resize: Callable[[int, int], None]) -> None:
    while (size := await session.next_size()) is not None:
        resize(size.width, size.height)
