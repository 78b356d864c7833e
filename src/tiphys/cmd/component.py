"""What every component's command does alike: an event loop, an orderly end, a client."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from tiphys.base.log import get_logger, setup_logging
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser

if TYPE_CHECKING:
    from tiphys.client import Client

log = get_logger(__name__)

# Decoded objects live long; the young generation is collected less often than Python's default would.
GC_THRESHOLDS: Final = (50_000, 20, 50)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run `work` in a new event loop until it ends or SIGTERM or SIGINT comes; returns the exit status.

    A signal cancels the work, so that it can end in order. A CommandError becomes one line.
    """
    gc.set_threshold(*GC_THRESHOLDS)

    async def supervised() -> None:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: task.cancel() if task else None)
        await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(supervised())
        except asyncio.CancelledError:
            return 0
        except CommandError as error:
            print(f"tiphys: {error}", file=sys.stderr)
            return 1
    return 0


def add_common_flags(flags: FlagParser, *, kubeconfig: bool = True) -> None:
    """`-v`, and for clients of the API `--kubeconfig` (without it: the pod's service account)."""
    flags.add_argument("-v", "--v", type=int, default=0, dest="verbosity", help="log verbosity")
    if kubeconfig:
        flags.add_argument("--kubeconfig", type=Path, help="how to reach the API server; in a pod not needed")


def begin_logging(verbosity: int) -> None:
    """Log to standard error."""
    setup_logging(verbosity)


def connect(kubeconfig: Path | None, component: str) -> Client:
    """A client with the component's user agent; raises CommandError when there is no usable configuration."""
    # The API server is a component that is nobody's client: it is spared the HTTP client's memory and start-up time.
    from tiphys.client import Client, RestConfig

    try:
        config = RestConfig.from_kubeconfig(kubeconfig) if kubeconfig else RestConfig.in_cluster()
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read the client configuration: {error}") from error
    return Client(config, user_agent=component)
