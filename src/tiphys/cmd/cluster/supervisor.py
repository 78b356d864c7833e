"""Starts a cluster's processes and keeps them running.

    supervisor ──fork──► apiserver, controller-manager, scheduler
        │      ──fork, setns──► NODE/runtime, NODE/kubelet, NODE/proxy, NODE/network
        └──fork──► guard          watches the supervisor and puts a new one in its place

Everything a component needs is imported before the first fork and the heap is frozen, so that a
fork costs milliseconds and its memory is shared. This process stays single-threaded and never
blocks: one selector waits for deaths (pidfds), readiness (a pipe a child) and the command line
(a Unix socket). What dies is started again, with back-off if it dies often. A supervisor that
dies is replaced by the guard; the new one finds the components by their locks and carries on.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import setproctitle

from tiphys.base.log import get_logger, setup_logging
from tiphys.base.notify import NOTIFY_FD
from tiphys.cmd.cluster import place
from tiphys.cmd.cluster.components import Component
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.process import AlreadyRunning, hold, holder, open_process, reap, send

log = get_logger(__name__)

FIRST_BACKOFF: Final = 0.1  # seconds; the first restart comes at once
LONGEST_BACKOFF: Final = 10.0
# One that had become ready works: something from outside ended it, and pods wait for it.
LONGEST_BACKOFF_IF_READY: Final = 1.0
HEALTHY_AFTER: Final = 30.0  # a component that ran this long has no back-off
STOP_GRACE: Final = 5.0  # seconds between SIGTERM and SIGKILL


@dataclass(slots=True)
class Process:
    """A component and the process that is it now, if any."""

    component: Component
    pid: int = 0
    pidfd: int = -1
    pipe: int = -1
    started: float = 0.0  # monotonic
    ready_after: float | None = None  # seconds from start to ready; None until then
    facts: dict[str, Any] = field(default_factory=dict)
    restarts: int = 0
    backoff: float = 0.0
    not_before: float = 0.0
    wanted: bool = True
    done: bool = False
    again: bool = False  # a job that is to run once more, from the start
    last_exit: str = ""
    buffer: bytes = b""

    @property
    def running(self) -> bool:
        return self.pid != 0

    @property
    def state(self) -> str:
        """One word for people."""
        if self.done:
            return "done"
        if not self.wanted:
            return "stopped"
        if self.running:
            return "ready" if self.ready_after is not None else "starting"
        return "waiting" if not self.restarts else "restarting"


Listener = Callable[[dict[str, Any]], None]


class Supervisor:
    """The loop. `modules` are imported once, before anything is forked.

    Without `guarded` nobody takes the place of one that dies: somebody else (systemd) watches it.
    """

    def __init__(
        self, layout: Layout, components: list[Component], modules: tuple[str, ...], *, guarded: bool = True
    ) -> None:
        self.layout = layout
        self.processes: dict[str, Process] = {item.name: Process(item) for item in components}
        self._modules = modules
        self._guarded = guarded
        self._selector = selectors.DefaultSelector()
        self._listeners: list[Listener] = []
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._stopping = False
        self._guard = Process(Component(name="guard", command="", arguments=()))
        self._lock = -1
        self._statuses: dict[int, int] = {}
        self.started = time.monotonic()

    # -- life ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Take the supervisor's lock; raises AlreadyRunning when another holds it."""
        self._lock = hold(self._pid_file("supervisor"))

    def preload(self) -> None:
        """Import what the components need and freeze the heap, so that forks share it."""
        for module in self._modules:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()

    def begin(self, name: str) -> None:
        """Start one component before `preload` and `run`: it brings its own imports along, on another core."""
        process = self.processes.get(name)
        if process is not None and holder(self._pid_file(name)) is None:
            self._start(process)

    def run(self) -> None:
        """Supervise until `stop` is called or SIGTERM comes; returns when every process has ended."""
        self._handle_signals()
        self._adopt()
        self._start_guard()
        while not self._stopping:
            self._start_due()
            self._wait(self._next_deadline())
        self._end_all()

    def stop(self) -> None:
        """End every process, then the loop."""
        self._stopping = True

    def listen(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call `handler` whenever `descriptor` is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, handler)

    def ignore(self, descriptor: int) -> None:
        """Take back `listen`."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with every event: a component started, became ready, ended, or said something."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Take back `subscribe`."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    # -- the set of components -------------------------------------------------------------------

    def add(self, components: list[Component]) -> None:
        """Supervise more components, or start those again that were halted; a finished job runs anew."""
        for component in components:
            known = self.processes.get(component.name)
            if known is None:
                self.processes[component.name] = Process(component)
                continue
            known.component = component
            known.wanted, known.done = True, False
            known.backoff = known.not_before = 0.0
            if not known.running:
                known.ready_after = None
            elif component.job:
                # It works for what was wanted before: it begins anew.
                known.again = True
                send(known.pid, signal.SIGKILL)

    def halt(self, names: list[str], number: signal.Signals, *, forget: bool = False) -> None:
        """End components and do not start them again; with `forget` they are no longer supervised."""
        for name in names:
            process = self.processes[name]
            process.wanted = False
            if process.running:
                send(process.pid, number)
        if forget:
            self._await_end([self.processes[name] for name in names])
            for name in names:
                self.processes.pop(name, None)

    # -- starting --------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for process in list(self.processes.values()):
            if process.running or not process.wanted or process.done or process.not_before > now:
                continue
            if all(self._was_ready(name) for name in process.component.after):
                self._start(process)
                if self._stopping:
                    return

    def _was_ready(self, name: str) -> bool:
        process = self.processes.get(name)
        return process is not None and (process.ready_after is not None or process.done)

    def _start(self, process: Process) -> None:
        reader, writer = os.pipe()  # not inherited over exec, so conmon and runc never hold it
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._become(process.component, writer)
        os.close(writer)
        os.set_blocking(reader, False)
        process.started = time.monotonic()
        process.ready_after = None
        process.buffer = b""
        process.facts = {}
        self._watch(process, pid, reader)
        self._tell({"event": "started", "component": process.component.name, "pid": pid})

    def _become(self, component: Component, writer: int) -> None:
        """In the child: turn into the component; never returns."""
        status = 70  # EX_SOFTWARE
        try:
            self._leave_supervisor()
            self._redirect(component)
            lock = hold(self._pid_file(component.name))
            os.environ[NOTIFY_FD] = str(writer)
            if component.node:
                place.enter(self.layout, component.node)
            os.set_inheritable(lock, False)
            status = run_component(component)
        except AlreadyRunning:
            status = 75  # EX_TEMPFAIL: the one that runs is adopted
        except BaseException:
            log.exception("%s failed", component.name)
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _leave_supervisor(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for key in list(self._selector.get_map().values()):
            with suppress(OSError):
                os.close(key.fd)
        self._selector.close()
        os.close(self._lock)
        os.setpgid(0, 0)

    def _redirect(self, component: Component) -> None:
        path = self.layout.log(component.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        setup_logging()

    def _pid_file(self, name: str) -> Any:
        return self.layout.run / "pids" / f"{name.replace('/', '@')}.pid"

    # -- taking over, and the guard --------------------------------------------------------------

    def _adopt(self) -> None:
        """Find components that a supervisor before this one has started."""
        for process in self.processes.values():
            pid = holder(self._pid_file(process.component.name))
            if pid is not None and not process.running:
                process.started = time.monotonic()
                self._watch(process, pid, -1)
                process.ready_after = 0.0
                log.info("%s runs already as process %d", process.component.name, pid)
        pid = holder(self._pid_file("guard"))
        if pid is not None:
            self._watch(self._guard, pid, -1)

    def _start_guard(self) -> None:
        if self._guard.running or self._stopping or not self._guarded:
            return
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._guard_until_dead(supervisor)
        self._guard.started = time.monotonic()
        self._watch(self._guard, pid, -1)

    def _guard_until_dead(self, supervisor: int) -> None:
        """In the guard: whenever the supervisor dies without having been told to, put another in its place.

        Never returns. The new supervisor is a child of the guard, so that the guard goes on guarding; it
        finds the guard by its lock.
        """
        try:
            self._leave_supervisor()
            lock = hold(self._pid_file("guard"))
            set_title("guard")
            while True:
                wait_for_end(supervisor)
                if not self.layout.run.is_dir() or (self.layout.run / "stopping").exists():
                    os._exit(0)
                log.error("the supervisor (process %d) died; starting another", supervisor)
                supervisor = os.fork()
                if supervisor == 0:
                    os.close(lock)
                    importlib.import_module("tiphys.cmd.cluster.daemon").take_over(self.layout)
        except AlreadyRunning:
            os._exit(0)
        except BaseException:
            log.exception("the guard failed")
        finally:
            os._exit(1)

    # -- waiting ---------------------------------------------------------------------------------

    def _watch(self, process: Process, pid: int, pipe: int) -> None:
        pidfd = open_process(pid)
        if pidfd is None:
            if pipe >= 0:
                os.close(pipe)
            process.pid = 0
            process.not_before = time.monotonic() + FIRST_BACKOFF
            return
        process.pid, process.pidfd, process.pipe = pid, pidfd, pipe
        self.listen(pidfd, lambda: self._ended(process))
        if pipe >= 0:
            self.listen(pipe, lambda: self._heard(process))

    def _heard(self, process: Process) -> None:
        try:
            data = os.read(process.pipe, 65536)
        except BlockingIOError:
            return
        if not data:
            self._close_pipe(process)
            return
        *lines, process.buffer = (process.buffer + data).split(b"\n")
        for line in lines:
            with suppress(ValueError):
                self._said(process, json.loads(line))

    def _said(self, process: Process, message: dict[str, Any]) -> None:
        if message.get("event") == "ready" and process.ready_after is None:
            process.ready_after = time.monotonic() - process.started
            process.facts = {key: value for key, value in message.items() if key != "event"}
            message = {**message, "after": round(process.ready_after, 3)}
        self._tell({**message, "component": process.component.name})

    def _ended(self, process: Process) -> None:
        pid = process.pid
        if process.pipe >= 0:
            self._heard(process)  # its last words
        self._statuses.update(reap())
        status = self._statuses.pop(pid, None)
        self.ignore(process.pidfd)
        os.close(process.pidfd)
        self._close_pipe(process)
        process.pid, process.pidfd = 0, -1
        process.last_exit = describe_exit(status)
        if process is self._guard:
            if not self._stopping:
                self._start_guard()
            return
        was_ready = process.ready_after is not None
        if process.again:
            process.again, process.ready_after = False, None
            return
        if process.component.job and status == 0:
            process.done = True
            process.ready_after = process.ready_after or 0.0
            self._tell({"event": "done", "component": process.component.name})
            return
        if not process.wanted or self._stopping:
            return
        if status is not None and os.WIFEXITED(status) and os.WEXITSTATUS(status) == 75:
            found = holder(self._pid_file(process.component.name))
            if found is not None:
                self._watch(process, found, -1)
                process.ready_after = 0.0
                return
        lived = time.monotonic() - process.started
        healthy = lived > HEALTHY_AFTER
        longest = LONGEST_BACKOFF_IF_READY if was_ready else LONGEST_BACKOFF
        process.backoff = 0.0 if healthy else min(max(process.backoff * 2, FIRST_BACKOFF), longest)
        # One that had become ready and is killed comes back at once; one that dies again soon has to wait.
        delay = 0.0 if was_ready and process.backoff <= FIRST_BACKOFF else process.backoff
        process.not_before = time.monotonic() + delay
        process.restarts += 1
        if was_ready:
            process.ready_after = process.ready_after or 0.0
        log.warning("%s (process %d) %s; starting it again", process.component.name, pid, process.last_exit)
        self._tell({"event": "ended", "component": process.component.name, "how": process.last_exit})

    def _close_pipe(self, process: Process) -> None:
        if process.pipe >= 0:
            self.ignore(process.pipe)
            os.close(process.pipe)
            process.pipe = -1

    def _next_deadline(self) -> float | None:
        waiting = [
            process.not_before
            for process in self.processes.values()
            if not process.running and process.wanted and not process.done and process.not_before > time.monotonic()
        ]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _wait(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            # A handler before this one may have closed what this one is about.
            if key.fd in self._selector.get_map():
                key.data()

    def _handle_signals(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._wakeup = (reader, writer)
        signal.set_wakeup_fd(writer.fileno())
        self.listen(reader.fileno(), lambda: self._drain(reader))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    @staticmethod
    def _drain(reader: socket.socket) -> None:
        with suppress(BlockingIOError):
            while reader.recv(4096):
                continue

    def _tell(self, event: dict[str, Any]) -> None:
        event["at"] = round(time.monotonic() - self.started, 3)
        for listener in list(self._listeners):
            listener(event)

    # -- the end ---------------------------------------------------------------------------------

    def _end_all(self) -> None:
        """End the guard first, then the nodes, then the control plane, the API server last."""
        (self.layout.run / "stopping").touch()
        if self._guard.running:
            send(self._guard.pid, signal.SIGKILL)
        ordered = [list(reversed([p for p in self.processes.values() if p.component.name != "apiserver"]))]
        ordered.append([p for p in self.processes.values() if p.component.name == "apiserver"])
        for group in ordered:
            for process in group:
                process.wanted = False
                if process.running:
                    send(process.pid, signal.SIGTERM)
            self._await_end(group)
        self._await_end([self._guard])

    def _await_end(self, group: list[Process]) -> None:
        deadline = time.monotonic() + STOP_GRACE
        while any(process.running for process in group) and time.monotonic() < deadline:
            self._wait(deadline - time.monotonic())
        for process in group:
            if process.running:
                send(process.pid, signal.SIGKILL)
        while any(process.running for process in group):
            self._wait(1.0)


def wait_for_end(pid: int) -> None:
    """Return once a process has ended; reaps it when it was a child."""
    pidfd = open_process(pid)
    if pidfd is not None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(pidfd, selectors.EVENT_READ)
            waiting.select()
        os.close(pidfd)
    reap()


def run_component(component: Component) -> int:
    """Run a component's command in this process; returns its exit status."""
    module = importlib.import_module(f"tiphys.cmd.{component.command}")
    set_title(component.name)
    return int(module.main(list(component.arguments)))


def set_title(title: str) -> None:
    """Give this process a name that `ps` and `top` show."""
    setproctitle.setproctitle(f"tiphys: {title}")


def describe_exit(status: int | None) -> str:
    """What a wait status means, in words."""
    if status is None:
        return "ended"
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with status {os.WEXITSTATUS(status)}"
