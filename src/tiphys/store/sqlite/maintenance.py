"""The upkeep of a store another process has open: a Unix socket in its directory, which only the owner may use.

    request   {"do": "compact", "revision": 7}
    answer    {"revision": 9, "compacted_revision": 7, …}      or {"error": "mvcc: required revision …"}

One line each, one request a connection. `status`, `compact`, `defragment` and `disarm` all answer with the state after
it; snapshots need nobody's help, as SQLite's readers see one state while others write.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tiphys.base.log import get_logger
from tiphys.store.errors import StoreError, StoreOpenError

if TYPE_CHECKING:
    from tiphys.store.interface import Store

log = get_logger(__name__)

SOCKET: Final = "maintenance.sock"
THE_MEMBER: Final = 1  # who raises the alarms of a store that is one process
MAX_LINE: Final = 1 << 16
WITHIN: Final = 600.0  # seconds for the longest work, to write a large file anew


async def do(store: Store, what: str, revision: int = 0) -> dict[str, Any]:
    """Do one thing to a store, and tell its state after it. `revision` 0: the newest. Raises StoreError, ValueError."""
    if what == "compact":
        await store.compact(revision or await store.current_revision())
    elif what == "defragment":
        await store.defragment()
    elif what == "disarm":
        await store.disarm()
    elif what != "status":
        raise ValueError(f"{what} is nothing a store does")
    status = await store.status()
    told = {name: getattr(status, name) for name in status.__struct_fields__}
    return {**told, "alarms": [alarm.kind for alarm in await store.alarms()]}


class MaintenanceServer:
    """Answers for a store while it is open."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Where there can be no socket (some file systems), there is none, and a line in the log."""
        path = self._directory / SOCKET
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            path.unlink(missing_ok=True)  # of a process that was killed: the directory is locked by this one
            with _Nearby(self._directory) as near:
                listening.bind(near)
            self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=MAX_LINE)
        except OSError as error:
            listening.close()
            log.warning("no upkeep from outside, as %s cannot be made: %s", path, error.strerror)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            (self._directory / SOCKET).unlink(missing_ok=True)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(await reader.readline())
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError) as error:  # who asked is gone, or asks without end
            log.debug("no answer about the store's upkeep: %s", error)
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            return await do(self._store, str(asked["do"]), int(asked.get("revision", 0)))
        except (StoreError, ValueError, KeyError, TypeError, AttributeError) as error:
            return {"error": str(error)}


def ask(directory: Path, what: str, revision: int = 0) -> dict[str, Any] | None:
    """Have it done by the process that has the store open; None when there is none. Raises StoreOpenError, StoreError.

    Blocks until it is done.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(WITHIN)
        try:
            with _Nearby(directory) as near:
                connection.connect(near)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise StoreOpenError(str(directory), error.strerror or str(error)) from error
        connection.sendall(json.dumps({"do": what, "revision": revision}).encode() + b"\n")
        with connection.makefile("rb") as stream:
            line = stream.readline()
    if not line:
        raise StoreError("the process that has the store open has ended; whether it was done is not known")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise StoreError(answer["error"])
    return answer


class _Nearby:
    """A path of the socket that is short enough, however long the directory's is: sockets have 107 bytes for it."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}/{SOCKET}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
