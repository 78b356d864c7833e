"""The supervisor with processes that really live and die."""

import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tiphys.base.notify import notify_ready
from tiphys.cmd.cluster.components import Component
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.process import holder
from tiphys.cmd.cluster.supervisor import Supervisor


def serve(arguments: list[str]) -> int:
    notify_ready(port=int(arguments[0]) if arguments else 0)
    while True:
        signal.pause()


def fail(arguments: list[str]) -> int:
    return 3


def succeed(arguments: list[str]) -> int:
    Path(arguments[0]).touch()
    return 0


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, main in (("test_serve", serve), ("test_fail", fail), ("test_succeed", succeed)):
        module = types.ModuleType(f"tiphys.cmd.{name}")
        module.main = main  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"tiphys.cmd.{name}", module)


class Running:
    """A supervisor in a process of its own, watched through the locks its components hold."""

    def __init__(self, layout: Layout, components: list[Component]) -> None:
        self.layout = layout
        self.pid = os.fork()
        if self.pid == 0:
            try:
                supervisor = Supervisor(layout, components, ())
                supervisor.prepare()
                supervisor.run()
                os._exit(0)
            finally:
                os._exit(1)

    def holder(self, name: str) -> int | None:
        return holder(self.layout.run / "pids" / f"{name.replace('/', '@')}.pid")

    def wait(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = what()
            if found:
                return found
            time.sleep(0.005)
        raise AssertionError("it did not happen within 20 s")

    def end(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def start(tmp_path: Path, commands: None) -> Iterator[Callable[[list[Component]], Running]]:
    layout = Layout("test", tmp_path / "state", tmp_path / "run")
    started: list[Running] = []

    def begin(components: list[Component]) -> Running:
        running = Running(layout, components)
        started.append(running)
        return running

    yield begin
    (layout.run / "stopping").touch()
    for running in started:
        for name in ("guard", "supervisor"):
            pid = running.holder(name)
            if pid:
                os.kill(pid, signal.SIGKILL)
        for path in (layout.run / "pids").glob("*.pid"):
            pid = holder(path)
            if pid:
                os.kill(pid, signal.SIGKILL)


def component(name: str, command: str = "test_serve", *arguments: str, **more: Any) -> Component:
    return Component(name=name, command=command, arguments=arguments, **more)


Start = Callable[[list[Component]], Running]


def test_a_killed_component_comes_back(start: Start) -> None:
    running = start([component("a"), component("n/b")])
    first = running.wait(lambda: running.holder("a"))
    other = running.wait(lambda: running.holder("n/b"))
    os.kill(first, signal.SIGKILL)
    second = running.wait(lambda: running.holder("a") not in (None, first) and running.holder("a"))
    assert second != first
    assert running.holder("n/b") == other
    assert running.end() == 0
    assert running.holder("a") is None
    assert running.holder("n/b") is None


def test_a_component_waits_for_those_before_it(start: Start, tmp_path: Path) -> None:
    mark = tmp_path / "done"
    running = start([component("late", after=("job",)), component("job", "test_succeed", str(mark), job=True)])
    running.wait(lambda: running.holder("late"))
    assert mark.exists()
    assert running.end() == 0


def test_one_that_fails_at_once_is_tried_again_and_hurts_nobody(start: Start) -> None:
    running = start([component("bad", "test_fail"), component("good")])
    running.wait(lambda: running.holder("good"))
    log = running.layout.log("supervisor")
    assert not log.exists()  # the supervisor of this test logs to the terminal
    running.wait(lambda: running.layout.log("bad").exists())
    assert running.end() == 0


def test_a_second_supervisor_of_the_same_cluster_does_not_start(start: Start) -> None:
    running = start([component("a")])
    running.wait(lambda: running.holder("a"))
    second = Running(running.layout, [component("a")])
    _, status = os.waitpid(second.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert running.holder("a")
    assert running.end() == 0


def test_a_killed_guard_is_replaced(start: Start) -> None:
    running = start([component("a")])
    first = running.wait(lambda: running.holder("guard"))
    os.kill(first, signal.SIGKILL)
    running.wait(lambda: running.holder("guard") not in (None, first))
    assert running.end() == 0
    assert running.holder("guard") is None
