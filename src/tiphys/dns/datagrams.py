"""The UDP side of one address: reads queries, sends answers.

The socket is read here and not by a transport of the event loop: up to BATCH datagrams a wake-up,
each begun in place, so that an answer that waits for nothing costs neither a task nor a turn of the
loop. One that waits goes on in a task, and the next datagram is read meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Final

from tiphys.base.log import get_logger

log = get_logger(__name__)

# Datagrams a wake-up: then TCP, the API's events and the other sockets have their turn, after 1 or 2 ms.
BATCH: Final = 64
# A query is a question and some options; nobody sends larger ones by UDP.
MAX_QUERY: Final = 4096
# Answers that wait until the kernel takes them. Beyond that clients ask again, as UDP's have to be able to.
MAX_UNSENT: Final = 1024

Answer = Callable[[bytes, str], Coroutine[Any, Any, bytes]]


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is left of a coroutine that was begun outside a task; awaited, it goes on as if it had begun there."""

    begun: Coroutine[Any, Any, bytes]
    waits_for: Any  # as it said when it stopped

    def __await__(self) -> Generator[Any, Any, bytes]:
        waits_for = self.waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:  # the task is cancelled, or what was waited for failed
                    waits_for = self.begun.throw(error)
                else:
                    waits_for = self.begun.send(sent)
        except StopIteration as end:
            reply: bytes = end.value
            return reply


class Datagrams:
    """Answers the datagrams of a socket, which it owns, by `answer(data, address of the client)`.

    An empty answer is not sent. What `answer` raises is logged, and the client hears nothing.
    """

    def __init__(self, channel: socket.socket, answer: Answer) -> None:
        self._socket = channel
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Task[None]] = set()
        self._unsent: deque[tuple[bytes, Any]] = deque(maxlen=MAX_UNSENT)
        self._loop.add_reader(channel, self._read)

    def close(self) -> None:
        """Stop reading, cancel what still waits for its answer, and close the socket. Again: nothing happens."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        for task in list(self._waiting):
            task.cancel()
        self._socket.close()

    def _read(self) -> None:
        for _ in range(BATCH):
            try:
                data, peer = self._socket.recvfrom(MAX_QUERY)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("a datagram could not be read: %s", error)
                return
            self._begin(data, peer)

    def _begin(self, data: bytes, peer: Any) -> None:
        """Answer; in a task from where it waits."""
        coroutine = self._answer(data, peer[0])
        try:
            waits_for = coroutine.send(None)
        except StopIteration as end:
            self._send(end.value, peer)
        except Exception as error:
            log.error("a query could not be answered: %r", error)
        else:
            task = self._loop.create_task(self._go_on(_Rest(coroutine, waits_for), peer))
            self._waiting.add(task)
            task.add_done_callback(self._done)

    async def _go_on(self, rest: _Rest, peer: Any) -> None:
        self._send(await rest, peer)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a query could not be answered: %r", error)

    def _send(self, reply: bytes, peer: Any) -> None:
        if not reply:
            return
        if self._unsent:
            self._unsent.append((reply, peer))
            return
        try:
            self._socket.sendto(reply, peer)
        except BlockingIOError:
            self._unsent.append((reply, peer))
            self._loop.add_writer(self._socket, self._send_unsent)
        except OSError as error:
            log.debug("an answer to %s could not be sent: %s", peer[0], error)

    def _send_unsent(self) -> None:
        """Send what the kernel did not take, in order, as far as it takes it now."""
        while self._unsent:
            reply, peer = self._unsent[0]
            try:
                self._socket.sendto(reply, peer)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("an answer to %s could not be sent: %s", peer[0], error)
            self._unsent.popleft()
        self._loop.remove_writer(self._socket)
