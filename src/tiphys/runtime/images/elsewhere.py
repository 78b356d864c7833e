"""An event loop in another network namespace: images are pulled where the machine's network is, not the node's.

A thread enters the namespace and runs a loop; threads it starts (for looking up names) are in the namespace too.
Nothing else may be run there: a worker thread that is shared with the rest of the runtime would take the
namespace into the containers it starts.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tiphys.runtime import linux

T = TypeVar("T")


class LoopElsewhere:
    """Runs coroutines in the network namespace at `netns`. The thread is started by the first call."""

    def __init__(self, netns: Path) -> None:
        self._netns = netns
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work()`; cancelling the caller cancels it. OSError when the namespace is gone."""
        if self._loop is None:
            self._loop = await asyncio.to_thread(self._start)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), self._loop))

    def _start(self) -> asyncio.AbstractEventLoop:
        started = threading.Event()
        failure: list[OSError] = []
        loop = asyncio.new_event_loop()

        def serve() -> None:
            try:
                linux.setns(self._netns)
            except OSError as error:
                failure.append(error)
                return
            finally:
                started.set()
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

        self._thread = threading.Thread(target=serve, name="registry", daemon=True)
        self._thread.start()
        started.wait()
        if failure:
            loop.close()
            raise failure[0]
        return loop

    def close(self) -> None:
        """End the thread; what runs is abandoned. Idempotent."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None
