"""Group commit: one thread writes; what waits while it syncs the disk goes into its next transaction.

    writers (event loop)      a  b  c d e      f
    committer thread          [a--sync][bcde--sync][f--sync]
    event loop                          ^ deliver a      ^ deliver b, c, d, e in order

A job is judged and applied by the thread, in the order of submission. Its outcome reaches the loop only after
its batch is on disk, one call a batch: first every event is published, then the writers are answered.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from tiphys.base.log import get_logger
from tiphys.store.errors import NoSpaceError, StoreClosedError, StoreError
from tiphys.store.interface import Event

log = get_logger(__name__)

MAX_BATCH: Final = 512
UNTRUSTWORTHY: Final = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY}


class Done(NamedTuple):
    """What a job returns: the caller's result, and the events it made (possibly none)."""

    result: Any
    events: Sequence[Event] = ()


Job = Callable[[], Done]  # runs in the committer's thread, inside a transaction


class Pending(NamedTuple):
    job: Job
    future: asyncio.Future[Any]
    alone: bool  # runs outside a transaction, by itself


class Outcome(NamedTuple):
    future: asyncio.Future[Any]
    done: Done | Exception


class Committer:
    """Owns the writing connection."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        publish: Callable[[Sequence[Event]], None],
        rolled_back: Callable[[], None],
    ) -> None:
        """`publish` gets each revision's events in the loop; `rolled_back` is called in the thread after a rollback."""
        self._connection = connection
        self._publish = publish
        self._rolled_back = rolled_back
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._closed = False
        self._broken: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="store-committer", daemon=True)
        self._thread.start()

    def submit(self, job: Job, *, alone: bool = False) -> asyncio.Future[Any]:
        """Queue a job; the future resolves after it is durable and published."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._closed:
            future.set_exception(StoreClosedError("the store is closed"))
        else:
            self._queue.put(Pending(job, future, alone))
        return future

    async def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # let the last outcomes be delivered

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            alone = batch.pop() if batch and batch[-1].alone else None
            if batch:
                self._answer(self._commit(batch))
            if alone is not None:
                self._answer([self._run_alone(alone)])

    def _next_batch(self) -> tuple[list[Pending], bool]:
        """What waits now, up to and with a lone job. True with it at the end of work."""
        batch: list[Pending] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if item.alone or len(batch) >= MAX_BATCH:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: list[Pending]) -> list[Outcome]:
        """Run a batch as one transaction; if it cannot be committed, each job as its own: only the culprit fails."""
        if self._broken is not None:
            return [Outcome(pending.future, self._broken) for pending in batch]
        outcomes: list[Outcome] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for pending in batch:
                try:
                    outcomes.append(Outcome(pending.future, pending.job()))
                except (StoreError, ValueError) as refused:  # judged before anything was written
                    outcomes.append(Outcome(pending.future, refused))
            self._connection.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            if len(batch) > 1:
                return [outcome for pending in batch for outcome in self._commit([pending])]
            return [Outcome(batch[0].future, self._explain(error))]
        return outcomes

    def _run_alone(self, pending: Pending) -> Outcome:
        try:
            return Outcome(pending.future, pending.job())
        except Exception as error:
            self._roll_back()
            return Outcome(pending.future, self._explain(error))

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._rolled_back()

    def _explain(self, error: Exception) -> Exception:
        """What the writer is told; a disk that cannot be trusted any more stops the store."""
        # The low byte is the primary code; Python's own errors (a value of a wrong type) have none.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return NoSpaceError("database or disk is full")
        if code not in UNTRUSTWORTHY:
            return StoreError(str(error)) if code else error
        # After a failed sync nobody knows what is on disk; only reading it again, in a new process, tells.
        log.error("the store stops: %s", error)
        self._broken = StoreClosedError(f"the store stopped after a disk error: {error}")
        return self._broken

    def _answer(self, outcomes: list[Outcome]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, outcomes)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("%d writes committed after the event loop closed", len(outcomes))

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for _, done in outcomes:
            if isinstance(done, Done) and done.events:
                self._publish(done.events)
        for future, done in outcomes:
            if future.done():  # its writer was cancelled
                continue
            if isinstance(done, Done):
                future.set_result(done.result)
            else:
                future.set_exception(done)
