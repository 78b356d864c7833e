"""What the parts of one runtime share: its options, the machine's facts, worker threads, events."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tiphys.api.cri import api_pb2
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.runtime import linux, usernamespaces
from tiphys.runtime.cgroups import Cgroups
from tiphys.runtime.errors import InvalidArgument
from tiphys.runtime.images.store import ImageStore
from tiphys.runtime.network import NetworkSetup
from tiphys.runtime.oci import OCIRuntime
from tiphys.runtime.options import RuntimeOptions
from tiphys.runtime.process import Children
from tiphys.runtime.spec import capabilities
from tiphys.runtime.spec.build import Machine

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def inspect_machine(options: RuntimeOptions, cgroups: Cgroups) -> Machine:
    """The facts specifications depend on; what this machine withholds is said once, here."""
    held = linux.effective_capabilities()
    names = frozenset(name for number, name in enumerate(capabilities.NAMES) if number in held)
    least = -1000
    if capabilities.SYS_RESOURCE not in held:
        least = int(Path("/proc/self/oom_score_adj").read_text())
        log.warning("without CAP_SYS_RESOURCE oom_score_adj cannot go below %d: lower values become that", least)
    missing = sorted(set(capabilities.NAMES) - names)
    if missing:
        log.warning("this machine withholds %s: privileged containers go without", ", ".join(missing))
    memory_and_swap = "memory.swap.max" if cgroups.unified else "memory.memsw.limit_in_bytes"
    return Machine(
        capabilities=names,
        unified_cgroups=cgroups.unified,
        swap_accounting=cgroups.has("memory", memory_and_swap, _own_group(cgroups)),
        least_oom_score_adj=least,
        seccomp_profiles=options.seccomp_profiles,
        cdi_directories=options.cdi_directories,
        apparmor=Path("/sys/kernel/security/apparmor/profiles").exists(),
        no_user_namespaces=usernamespaces.supported(options.root),
    )


def _own_group(cgroups: Cgroups) -> str:
    """The root of cgroup v2 has no limits of its own: look where this process is."""
    if not cgroups.unified:
        return ""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""


class Node:
    """Shared by the sandboxes, containers, images and streams of one runtime."""

    def __init__(self, options: RuntimeOptions, network: NetworkSetup, tasks: Supervised) -> None:
        self.options = options
        self.network = network
        self.tasks = tasks
        self.cgroups = Cgroups()
        self.machine = inspect_machine(options, self.cgroups)
        self.images = ImageStore(options.images)
        self.children = Children()
        self.events = Events()
        self._workers = ThreadPoolExecutor(options.workers, thread_name_prefix="runtime")

    async def blocking(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a worker thread. Once begun it is not interrupted by cancellation, but its result is lost."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, functools.partial(work, *args, **kwargs))

    async def uninterrupted(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `blocking`, but a cancellation is raised when `work` has ended: what it made can then be undone."""
        running = asyncio.ensure_future(self.blocking(work, *args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running})
            if not running.cancelled():
                running.exception()  # seen: the caller asks no more
            raise

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> asyncio.Future[T]:
        """Start `work()` as a task that ends with the runtime, not with who waits: await the answer shielded."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                result = await work()
            except asyncio.CancelledError:
                outcome.cancel()
                raise
            except Exception as error:
                if not outcome.done():
                    outcome.set_exception(error)
                    outcome.exception()  # seen: whoever asked may have gone away
            else:
                if not outcome.done():
                    outcome.set_result(result)

        self.tasks.spawn(run, name=name)
        return outcome

    def oci(self, handler: str) -> OCIRuntime:
        """The OCI runtime of a RuntimeClass handler; "" is the default one."""
        name = handler or self.options.default_runtime
        binary = self.options.runtimes.get(name)
        if binary is None:
            raise InvalidArgument(f'failed to get sandbox runtime: no runtime for "{handler}" is configured')
        return OCIRuntime(binary, self.options.oci_root, self.options.conmon)

    def close(self) -> None:
        """Let the worker threads end."""
        self._workers.shutdown(wait=False, cancel_futures=True)


def now() -> int:
    """Nanoseconds since the epoch, as CRI counts time."""
    return time.time_ns()


class Events:
    """Container events for whoever listens (`GetContainerEvents`). A listener that does not read is dropped."""

    LIMIT = 4096

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[api_pb2.ContainerEventResponse | None]] = set()

    def publish(self, event: api_pb2.ContainerEventResponse) -> None:
        """Hand the event to every listener."""
        for queue in list(self._listeners):
            if queue.qsize() >= self.LIMIT:
                self._listeners.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    @property
    def heard(self) -> bool:
        """Whether anybody listens: events are costly to make."""
        return bool(self._listeners)

    async def listen(self) -> AsyncIterator[api_pb2.ContainerEventResponse]:
        """Events from now on, in order."""
        queue: asyncio.Queue[api_pb2.ContainerEventResponse | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)
