"""One container in memory."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from tiphys.api.cri import api_pb2
from tiphys.runtime import process
from tiphys.runtime.state import ContainerRecord

STATES = {
    "creating": api_pb2.CONTAINER_CREATED,
    "created": api_pb2.CONTAINER_CREATED,
    "starting": api_pb2.CONTAINER_CREATED,
    "running": api_pb2.CONTAINER_RUNNING,
    "exited": api_pb2.CONTAINER_EXITED,
}


class Container:
    """One container in memory: its record, and an event that is set when it has ended and is cleaned up."""

    def __init__(self, record: ContainerRecord, handler: str) -> None:
        self.record = record
        self.handler = handler
        self.config = api_pb2.ContainerConfig.FromString(record.config)
        self.lock = asyncio.Lock()
        self.ended = asyncio.Event()  # the process is gone and its exit code known
        self.clean = asyncio.Event()  # nothing of it is left in the kernel
        self.exit_written = asyncio.Event()
        self.watch: process.ExitWatch | None = None
        self.finishing = False

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def running(self) -> bool:
        return self.record.state == "running"

    def signal(self, number: int) -> None:
        """Send a signal to the container's first process; nothing happens when it is gone."""
        with contextlib.suppress(ProcessLookupError, OSError):
            handle = process.Handle.open(self.record.pid)
            try:
                if process.start_time(self.record.pid) == self.record.pid_started:
                    signal.pidfd_send_signal(handle.fd, number)
            finally:
                handle.close()
