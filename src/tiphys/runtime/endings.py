"""How a container ended: the exit code its monitor has written, or what can be known without that."""

from __future__ import annotations

import asyncio

from tiphys.runtime import process
from tiphys.runtime.container import Container
from tiphys.runtime.node import Node, now
from tiphys.runtime.state import ContainerRecord

# Exit code of what ended while nobody watched, as the kubelet knows it.
UNKNOWN_EXIT = 255
# conmon writes the exit code a few milliseconds after the process has ended.
EXIT_FILE_WAIT = 5.0


async def exit_code(node: Node, container: Container) -> tuple[int, int, bool]:
    """(code, nanoseconds when, whether it is known)."""
    found = read_exit_file(node, container.id)
    if found is None:
        await _wait_for_monitor(node, container)
        found = read_exit_file(node, container.id)
    reaped = node.children.reap(container.record.pid)
    if found is not None:
        return *found, True
    if reaped is not None:  # its monitor was killed and it became our child
        return reaped, now(), True
    return UNKNOWN_EXIT, now(), False


async def _wait_for_monitor(node: Node, container: Container) -> None:
    """Return when conmon has written the exit code, or is itself gone."""
    try:
        pid = int((node.options.bundle(container.id) / "conmon.pid").read_text())
        handle = process.Handle.open(pid)
    except (OSError, ValueError):
        return
    gone = asyncio.ensure_future(process.wait_for_exit(handle))
    written = asyncio.ensure_future(container.exit_written.wait())
    await asyncio.wait((gone, written), timeout=EXIT_FILE_WAIT, return_when=asyncio.FIRST_COMPLETED)
    for waiter in (gone, written):
        waiter.cancel()
    await asyncio.gather(gone, written, return_exceptions=True)


def read_exit_file(node: Node, container_id: str) -> tuple[int, int] | None:
    path = node.options.exits / container_id
    try:
        return int(path.read_text()), path.stat().st_mtime_ns
    except (OSError, ValueError):
        return None


def was_out_of_memory(node: Node, record: ContainerRecord) -> bool:
    """The kernel's count while the group exists; conmon's mark when this runtime was not there."""
    return node.cgroups.oom_kills(record.cgroup) > 0 or (node.options.bundle(record.id) / "oom").exists()
