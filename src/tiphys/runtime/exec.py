"""Further processes in a running container: `ExecSync`, and the processes behind exec streams.

`runc exec --detach` starts the process with our pipes (or hands us its terminal) and ends. The process is then
our child, because this runtime is a subreaper: its exit status is exact, and no helper stays in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tiphys.runtime import process
from tiphys.runtime.container import Container
from tiphys.runtime.errors import DeadlineExceeded, RuntimeFault
from tiphys.runtime.fdio import Reader, Writer
from tiphys.runtime.node import Node

OUTPUT_LIMIT: Final = 16 << 20  # bytes of each stream ExecSync returns, as the kubelet accepts
# Output that a process left to its children is not waited for longer than this, in seconds.
DRAIN: Final = 2.0
CONSOLE_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended."""

    code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class _Launched:
    pid: int
    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    console: int = -1

    def close(self) -> None:
        for fd in (self.stdin, self.stdout, self.stderr, self.console):
            if fd >= 0:
                os.close(fd)


class ExecProcess:
    """A process started in a container, with the ends of its streams that are ours.

    It is reaped when it ends, whether anybody waits for it or not: a zombie would keep the first process of the
    container's PID namespace, and so the container, from ending.
    """

    def __init__(self, node: Node, launched: _Launched) -> None:
        self._node = node
        self._launched = launched
        # One to wait by, which is closed when the process ends, and one to kill by, closed when that is known here:
        # by the number of a closed one somebody else's process would be hit.
        self._handle = process.Handle.open(launched.pid)
        self._target: process.Handle | None = process.Handle.open(launched.pid)
        self.stdin: Writer | None = None
        self.stdout: Reader | None = None
        self.stderr: Reader | None = None
        if launched.console >= 0:
            self.stdin, self.stdout = Writer(os.dup(launched.console)), Reader(launched.console)
        else:
            self.stdin = Writer(launched.stdin) if launched.stdin >= 0 else None
            self.stdout = Reader(launched.stdout) if launched.stdout >= 0 else None
            self.stderr = Reader(launched.stderr) if launched.stderr >= 0 else None
        self._ended = node.begin(self._reap, name=f"exec {launched.pid}")

    async def wait(self) -> int:
        """The exit code."""
        return await asyncio.shield(self._ended)

    async def _reap(self) -> int:
        target = self._target
        try:
            await process.wait_for_exit(self._handle)
        finally:
            self._target = None
            if target is not None:
                target.close()
        code = self._node.children.reap(self._launched.pid)
        return 255 if code is None else code

    def kill(self) -> None:
        """SIGKILL; harmless when the process has ended."""
        if self._target is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._target.fd, signal.SIGKILL)

    def resize(self, width: int, height: int) -> None:
        """Tell the terminal its size."""
        if self._launched.console >= 0:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._launched.console, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close(self) -> None:
        """Close our ends of the streams; a terminal's process gets SIGHUP."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    def abandon(self) -> None:
        """End it: nobody is left to take its output or its exit code."""
        self.kill()
        self.close()


class Execs:
    """Starts processes in containers."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def run(self, container: Container, argv: Sequence[str], *, timeout: float | None) -> Completed:
        """Run a command to its end. DeadlineExceeded after `timeout` seconds, RuntimeFault when it cannot start."""
        running = await self._started(container, argv, False, False, ExecProcess.abandon)
        assert running.stdout is not None
        assert running.stderr is not None
        outputs = asyncio.gather(running.stdout.read_all(OUTPUT_LIMIT), running.stderr.read_all(OUTPUT_LIMIT))
        ended = asyncio.ensure_future(running.wait())
        try:
            done, _ = await asyncio.wait({ended}, timeout=timeout)
            if not done:
                running.kill()
                await ended
                raise DeadlineExceeded(
                    f"failed to exec in container: timeout {timeout:g}s exceeded: context deadline exceeded"
                )
            code = ended.result()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN):
                    stdout, stderr = await asyncio.shield(outputs)
                    return Completed(code, stdout, stderr)
            return Completed(code, b"", b"")
        finally:
            try:
                if not ended.done():  # the caller has gone away
                    running.kill()
                    await asyncio.shield(ended)
                outputs.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await outputs
            finally:
                running.close()

    async def start(self, container: Container, argv: Sequence[str], *, stdin: bool, tty: bool) -> ExecProcess:
        """Start a process with its streams piped to us (one terminal with `tty`). RuntimeFault when it cannot.

        Cancelled while it starts, the process goes on as one whose client has left: its input ends, its terminal
        hangs up.
        """
        return await self._started(container, argv, stdin, tty, ExecProcess.close)

    async def _started(
        self, container: Container, argv: Sequence[str], stdin: bool, tty: bool, unwanted: Callable[[ExecProcess], None]
    ) -> ExecProcess:
        """The process once it runs; it is given to `unwanted` when the caller is cancelled before that."""
        starting = self._node.begin(lambda: self._begin(container, argv, stdin, tty), name="start of an exec")
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:

            def disown(started: asyncio.Future[ExecProcess]) -> None:
                if not started.cancelled() and started.exception() is None:
                    unwanted(started.result())

            starting.add_done_callback(disown)
            raise

    async def _begin(self, container: Container, argv: Sequence[str], stdin: bool, tty: bool) -> ExecProcess:
        with self._node.children.expecting():
            try:
                launched = await self._node.blocking(self._launch, container, argv, stdin, tty)
            except OSError as error:
                raise RuntimeFault(f"failed to exec in container: {error}") from error
            try:
                return ExecProcess(self._node, launched)
            except OSError as error:
                launched.close()
                self._node.children.disclaim(launched.pid)
                raise RuntimeFault(f"failed to exec in container: {error}") from error

    def _launch(self, container: Container, argv: Sequence[str], stdin: bool, tty: bool) -> _Launched:
        directory = self._node.options.run / "exec" / secrets.token_hex(4)
        directory.mkdir(parents=True, mode=0o700)
        try:
            (directory / "process.json").write_bytes(self._process(container, argv, tty))
            if tty:
                return self._launch_on_terminal(container, directory)
            return self._launch_on_pipes(container, directory, stdin)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _process(self, container: Container, argv: Sequence[str], tty: bool) -> bytes:
        """The container's own process with another command line."""
        spec = msgspec.json.decode((self._node.options.bundle(container.id) / "config.json").read_bytes())
        document = spec["process"] | {"args": list(argv), "terminal": tty}
        if tty and not any(entry.startswith("TERM=") for entry in document["env"]):
            document["env"] = [*document["env"], "TERM=xterm"]
        return msgspec.json.encode(document)

    def _launch_on_pipes(self, container: Container, directory: Path, stdin: bool) -> _Launched:
        in_read, in_write = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1)
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        mine = [fd for fd in (in_write, out_read, err_read) if fd >= 0]
        try:
            pid = self._start(container, directory, None, (in_read, out_write, err_write))
        except BaseException:
            for fd in mine:
                os.close(fd)
            raise
        finally:
            for fd in (in_read, out_write, err_write):
                os.close(fd)
        return _Launched(pid, in_write, out_read, err_read)

    def _launch_on_terminal(self, container: Container, directory: Path) -> _Launched:
        # The socket's path must fit into 108 bytes, wherever the run directory is.
        with tempfile.TemporaryDirectory(prefix="tph") as short, socket.socket(socket.AF_UNIX) as listener:
            path = Path(short, "console")
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(CONSOLE_TIMEOUT)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                pid = self._start(container, directory, path, (null, null, null))
            finally:
                os.close(null)
            try:
                console = _receive_terminal(listener)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._node.children.reap_within(pid, DRAIN)
                raise
            return _Launched(pid, console=console)

    def _start(self, container: Container, directory: Path, console: Path | None, stdio: tuple[int, int, int]) -> int:
        log, pid_file = directory / "log.json", directory / "pid"
        argv = self._node.oci(container.handler).exec_argv(
            container.id, process_file=directory / "process.json", pid_file=pid_file, console=console, log=log
        )
        with subprocess.Popen(argv, stdin=stdio[0], stdout=stdio[1], stderr=stdio[2], process_group=0) as started:
            status = started.wait()
        if status != 0:
            self._node.children.reap_failed(started.pid, DRAIN)
            raise RuntimeFault(f"failed to exec in container: OCI runtime exec failed: {_reason(log)}")
        pid = int(pid_file.read_text())
        self._node.children.claim(pid)
        return pid


def _receive_terminal(listener: socket.socket) -> int:
    """The master end the OCI runtime sends; it has connected before it ended."""
    connection, _ = listener.accept()
    with connection:
        _, fds, _, _ = socket.recv_fds(connection, 1024, 1)
    if not fds:
        raise RuntimeFault("failed to exec in container: the OCI runtime sent no terminal")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _reason(log: Path) -> str:
    """The last error the OCI runtime logged."""
    with contextlib.suppress(OSError):
        for line in reversed(log.read_text(errors="replace").splitlines()):
            with contextlib.suppress(msgspec.MsgspecError):
                entry = msgspec.json.decode(line)
                if entry.get("level") == "error":
                    return str(entry.get("msg", "")).strip()
    return "unknown error"
