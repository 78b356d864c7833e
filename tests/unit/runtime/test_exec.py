"""A process started in a container: killing it hits nobody else, however late."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from tiphys.runtime.exec import ExecProcess, _Launched
from tiphys.runtime.process import Children


def _node() -> Any:
    """As much of the runtime as a process asks of it."""

    def begin(work: Callable[[], Coroutine[Any, Any, int]], *, name: str) -> asyncio.Future[int]:
        return asyncio.get_running_loop().create_task(work(), name=name)

    return SimpleNamespace(children=Children(), begin=begin)


def _started() -> ExecProcess:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    return ExecProcess(_node(), _Launched(pid, -1, -1, -1, -1))


def test_one_that_is_killed_ends_with_the_signal() -> None:
    async def work() -> int:
        running = _started()
        running.kill()
        return await running.wait()

    assert asyncio.run(work()) == 128 + signal.SIGKILL


def test_killing_one_that_has_ended_hits_nobody_else() -> None:
    """Its descriptor's number may be that of somebody else's process by then."""

    async def work(other: int) -> None:
        running = _started()
        before = {int(each) for each in os.listdir("/proc/self/fd")}
        running.kill()
        await running.wait()
        reused = [os.pidfd_open(other) for _ in range(4)]
        assert before & set(reused)
        running.kill()
        running.abandon()
        for each in reused:
            os.close(each)

    with subprocess.Popen(["sleep", "1000"]) as innocent:
        try:
            asyncio.run(work(innocent.pid))
            with pytest.raises(subprocess.TimeoutExpired):
                innocent.wait(0.2)
        finally:
            innocent.kill()
