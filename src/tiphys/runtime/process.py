"""Child processes: short commands run to their end, and orphans of containers that this process adopts.

The runtime is a subreaper: conmon and processes started by `runc exec --detach` lose their parent and become
our children, so their true exit status can be waited for. Whoever waits for such a process claims it; `sweep`
reaps the others. It recognises them by their cgroup, which is not ours, because children that a library of
this process started for itself must be left to that library. Of an OCI runtime that failed on its way into a
container processes are left, too: runc's by their name, and all by the group the command was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# A flag in /proc/[pid]/stat, see proc(5) and <linux/sched.h>: the process is being shut down.
PF_EXITING: Final = 0x4
# How runc's own processes are called on their way into a container: "runc:[1:CHILD]", "runc:[2:INIT]".
RUNC_STAGE: Final = "runc:["


class CommandFailed(Exception):
    """A command ended with a status other than zero; the text is what it wrote to standard error."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        super().__init__(stderr.strip() or f"{argv[0]} ended with status {status}")
        self.status = status


def run(argv: Sequence[str], *, stdin: bytes = b"", cwd: Path | None = None, timeout: float = 60.0) -> bytes:
    """Run a command to its end and return its standard output. Blocks; raises CommandFailed."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, cwd=cwd, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, -1, f"{argv[0]} did not end within {timeout:.0f} s") from error
    except OSError as error:
        raise CommandFailed(argv, -1, f"{argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr.decode(errors="replace"))
    return done.stdout


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of `pid`, 0 when there is no such process (or it is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def is_ending(pid: int) -> bool:
    """Whether `pid` is on its way out, or gone.

    The first process of a PID namespace only becomes a zombie when all others of the namespace have been reaped.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] in "ZX" or bool(int(fields[6]) & PF_EXITING)


@dataclass(frozen=True, slots=True)
class Handle:
    """A process that cannot be mistaken for another one with its number."""

    pid: int
    fd: int

    @classmethod
    def open(cls, pid: int) -> Handle:
        """Raises ProcessLookupError when the process is gone. A zombie can be opened."""
        return cls(pid, os.pidfd_open(pid))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


class Children:
    """The adopted children of this process."""

    def __init__(self) -> None:
        self._claimed: set[int] = set()
        self._expecting = 0

    def claim(self, pid: int) -> None:
        """The caller waits for `pid`; `sweep` leaves it alone until `reap`."""
        self._claimed.add(pid)

    def disclaim(self, pid: int) -> None:
        """Nobody waits for `pid` any more: `sweep` reaps it."""
        self._claimed.discard(pid)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """A process is about to be adopted whose pid is not known yet: nothing is swept meanwhile."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1

    def reap(self, pid: int) -> int | None:
        """Exit code of an ended child (128 + signal for a killed one); None when it is not ours or still runs."""
        self._claimed.discard(pid)
        try:
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status

    def reap_within(self, pid: int, seconds: float) -> None:
        """Wait for a child that is about to end and reap it. Blocks."""
        with contextlib.suppress(ProcessLookupError):
            handle = Handle.open(pid)
            poll = select.poll()
            poll.register(handle.fd, select.POLLIN)
            poll.poll(seconds * 1000)
            handle.close()
        self.reap(pid)

    def reap_failed(self, group: int, seconds: float) -> None:
        """End and reap what a command that failed has left behind: its process `group`, and runc's stages. Blocks.

        One of them may be in the PID namespace of a container that is ending, which cannot end before it is reaped.
        """
        deadline = time.monotonic() + seconds
        while self._left_of(group) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _left_of(self, group: int) -> bool:
        """Reap those that have ended; whether others are left."""
        stages = [pid for pid in _children() if int(pid) not in self._claimed and _name(pid).startswith(RUNC_STAGE)]
        left = [pid for pid in stages if self.reap(int(pid)) is None and Path("/proc", pid).exists()]
        try:
            while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
                pass
        except ChildProcessError:
            return bool(left)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        return True

    def sweep(self) -> None:
        """Reap adopted processes of containers for which nobody waits."""
        if self._expecting:
            return
        own = _cgroups("self")
        for pid in _children():
            if int(pid) in self._claimed or start_time(int(pid)):
                continue
            if _cgroups(pid) != own or _name(pid).startswith(RUNC_STAGE):
                self.reap(int(pid))


def _children() -> Iterator[str]:
    """The pids of our children."""
    for tasks in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            yield from (tasks / "children").read_text().split()


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def _cgroups(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


class ExitWatch:
    """Calls back once, in the event loop, when a process has ended."""

    def __init__(self, handle: Handle, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._handle = handle
        self._callback = callback
        self._loop.add_reader(handle.fd, self._ended)

    def _ended(self) -> None:
        self.close()
        self._callback()

    def close(self) -> None:
        """Stop watching."""
        if self._handle.fd >= 0:
            with contextlib.suppress(OSError, ValueError):
                self._loop.remove_reader(self._handle.fd)
            self._handle.close()
            self._handle = Handle(self._handle.pid, -1)


async def wait_for_exit(handle: Handle) -> None:
    """Return when the process has ended; the handle is closed."""
    done = asyncio.Event()
    watch = ExitWatch(handle, done.set)
    try:
        await done.wait()
    finally:
        watch.close()
