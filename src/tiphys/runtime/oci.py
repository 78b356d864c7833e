"""The OCI runtime (runc or crun) and the monitor (conmon): the commands that make, enter and delete containers.

Everything here blocks and is called from worker threads. conmon forks itself away from us, starts
`runc create`, tells the container's pid through a pipe, and from then on holds the container's output, its
attach socket and its exit code, whatever happens to this runtime.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiphys.runtime import process

CREATE_TIMEOUT = 120.0  # seconds: a machine under load, or a cold disk


class OCIError(Exception):
    """The OCI runtime refused; the text is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """What conmon is told about one container."""

    bundle: Path
    exits: Path
    log_path: str  # "" keeps no log
    tty: bool
    stdin: bool
    stdin_once: bool


@dataclass(frozen=True, slots=True)
class OCIRuntime:
    """One OCI runtime binary with its state directory."""

    binary: str
    root: Path
    conmon: str

    def create(self, container_id: str, monitor: Monitor) -> int:
        """Create the container of a bundle under conmon and return the pid of its first process.

        The process waits to be started. Raises OCIError with the runtime's own words; conmon is gone then.
        """
        bundle = monitor.bundle
        receive, send = _answer_pipe(bundle / "answer")
        try:
            argv = self._conmon_argv(container_id, monitor)
            log = os.open(bundle / "conmon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                started = subprocess.Popen(
                    argv,
                    cwd=bundle,
                    env={**os.environ, "_OCI_SYNCPIPE": str(send)},
                    pass_fds=(send,),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise OCIError(f"{self.conmon}: {error.strerror}") from error
            finally:
                os.close(log)
            os.close(send)
            send = -1
            answer = _read_line(receive, CREATE_TIMEOUT)
            started.wait()  # conmon's first process ends as soon as it has forked
        finally:
            os.close(receive)
            if send >= 0:
                os.close(send)
        pid = int(str(answer.get("pid", -1))) if answer else -1
        if pid <= 0:
            raise OCIError(self._reason(bundle, answer))
        return pid

    def _conmon_argv(self, container_id: str, monitor: Monitor) -> list[str]:
        bundle = monitor.bundle
        argv = [self.conmon, "--cid", container_id, "--cuuid", container_id, "--name", container_id]
        argv += ["--bundle", str(bundle), "--runtime", shutil.which(self.binary) or self.binary]
        argv += ["--container-pidfile", str(bundle / "pid"), "--conmon-pidfile", str(bundle / "conmon.pid")]
        argv += ["--log-path", f"k8s-file:{monitor.log_path}" if monitor.log_path else "off"]
        argv += ["--exit-dir", str(monitor.exits), "--persist-dir", str(bundle), "--full-attach", "--no-sync-log"]
        argv += ["--log-level", "warning"]
        for argument in (f"--root={self.root}", f"--log={bundle / 'oci.log'}", "--log-format=json"):
            argv += ["--runtime-arg", argument]
        if monitor.tty:
            argv.append("--terminal")
        if monitor.stdin:
            argv.append("--stdin")
            if not monitor.stdin_once:
                argv.append("--leave-stdin-open")
        return argv

    def _reason(self, bundle: Path, answer: dict[str, object] | None) -> str:
        """Why a create failed: the OCI runtime's log, else conmon's message, else conmon's log."""
        with contextlib.suppress(OSError):
            for line in reversed((bundle / "oci.log").read_text(errors="replace").splitlines()):
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if entry.get("level") == "error":
                        return str(entry.get("msg", "")).strip()
        if answer and answer.get("message"):
            return str(answer["message"]).strip()
        with contextlib.suppress(OSError):
            text = (bundle / "conmon.log").read_text(errors="replace").strip()
            if text:
                return text.splitlines()[-1]
        return f"{self.conmon} ended without an answer"

    def start(self, container_id: str) -> None:
        """Let a created container run.

        The waiting process blocks in opening a FIFO for writing; reading the byte it writes is all that
        `runc start` does, and saves starting that program (4 ms). Without the FIFO the command is used.
        """
        fifo = self.root / container_id / "exec.fifo"
        try:
            fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self._command("start", container_id)
            return
        try:
            # Opened without blocking, the writer may not have arrived yet: wait for its byte.
            deadline = time.monotonic() + 10.0
            while not _read_byte(fd):
                if time.monotonic() > deadline:
                    raise OCIError("the container's process does not start")
                time.sleep(0.001)
        finally:
            os.close(fd)
        fifo.unlink(missing_ok=True)

    def is_created(self, container_id: str) -> bool:
        """Whether the container exists and has not been started."""
        return (self.root / container_id / "exec.fifo").exists()

    def known(self) -> list[str]:
        """Ids of all containers the OCI runtime has state of."""
        return sorted(path.name for path in self.root.iterdir()) if self.root.is_dir() else []

    def delete(self, container_id: str) -> None:
        """Take the container away, killing what runs; harmless when there is none."""
        if not (self.root / container_id).exists():
            return
        try:
            self._command("delete", "--force", container_id)
        except OCIError:
            # State that the runtime itself cannot read any more (it was killed while it wrote).
            shutil.rmtree(self.root / container_id, ignore_errors=True)

    def update(self, container_id: str, resources: dict[str, object]) -> None:
        """Change the limits of a container; `resources` is the LinuxResources object of the OCI specification."""
        self._command("update", "--resources", "-", container_id, stdin=json.dumps(resources).encode())

    def checkpoint(self, container_id: str, image: Path, work: Path) -> None:
        """Write the container's processes to `image` with CRIU, leaving them running."""
        self._command(
            "checkpoint", "--leave-running", "--image-path", str(image), "--work-path", str(work), container_id
        )

    def exec_argv(
        self, container_id: str, *, process_file: Path, pid_file: Path, console: Path | None, log: Path
    ) -> Sequence[str]:
        """The command that starts a further process in the container and leaves it to us."""
        argv = [self.binary, f"--root={self.root}", f"--log={log}", "--log-format=json", "exec", "--detach"]
        argv += ["--process", str(process_file), "--pid-file", str(pid_file)]
        if console is not None:
            argv += ["--console-socket", str(console)]
        return [*argv, container_id]

    def _command(self, *argv: str, stdin: bytes = b"") -> None:
        try:
            process.run([self.binary, f"--root={self.root}", *argv], stdin=stdin)
        except process.CommandFailed as error:
            raise OCIError(_without_timestamp(str(error))) from error


def _without_timestamp(text: str) -> str:
    """runc logs `time="…" level=error msg="…"` lines; keep the last message."""
    last = text.strip().splitlines()[-1] if text.strip() else ""
    _, found, message = last.partition('msg="')
    return message.rstrip('"').replace('\\"', '"') if found else last


def _answer_pipe(path: Path) -> tuple[int, int]:
    """Both ends of what conmon answers through.

    conmon ends when it cannot answer, and its container is without a monitor then. So its end is one that it could
    read itself: the pipe does not break when this process is killed.
    """
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    receive = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return receive, os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _read_line(fd: int, timeout: float) -> dict[str, object] | None:
    """One line of JSON from conmon; None when it closed the pipe or said nothing in time."""
    data = b""
    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not data.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        piece = os.read(fd, 65536)
        if not piece:
            break
        data += piece
    try:
        answer = json.loads(data)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _read_byte(fd: int) -> bytes:
    try:
        return os.read(fd, 1)
    except BlockingIOError:
        return b""
