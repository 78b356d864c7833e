"""The ends of requests, as audit sees them: a whole answer, a stream, a connection handed over, a refusal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from tiphys.apiserver.audit.auditor import Auditor
from tiphys.apiserver.audit.record import Record
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer, Response
from tiphys.machinery.errors import internal_error

Now = Callable[[], datetime]


async def received(auditor: Auditor) -> None:
    """The arrival of a request is written. StatusError (500) where it has to be and cannot."""
    try:
        await auditor.flush()
    except OSError as error:
        raise internal_error(error) from None


async def end_record(auditor: Auditor, record: Record, answer: Answer, now: Now) -> None:
    """Record how a request ends: now, or for a stream when it has ended."""
    if isinstance(answer, Response):
        record.complete(answer, now())
        await _written(auditor)
        return
    run: Callable[[Any], Awaitable[None]] = answer.run

    async def recorded(stream: Any) -> None:
        record.started(answer, now())
        await _written(auditor)
        try:
            await run(stream)
        finally:
            record.complete(answer, now())
            await _written(auditor)

    answer.run = recorded


async def refuse_record(auditor: Auditor, request: Request, info: RequestInfo, answer: Response, now: datetime) -> None:
    """Record the answer to somebody whose credentials are wrong."""
    record = auditor.refused(request, info)
    if record is not None:
        record.started(answer, now)
        await _written(auditor)


async def panicked(auditor: Auditor, record: Record, error: Exception, now: datetime) -> None:
    """Record that serving failed as it never should."""
    record.panic(error, now)
    await _written(auditor)


async def _written(auditor: Auditor) -> None:
    try:
        await auditor.flush()
    except OSError:
        pass  # logged and counted; the request has been served
