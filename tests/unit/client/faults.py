"""A transport that behaves badly: requests fail before or after they took effect, watches break,
stall, repeat themselves and expire. Wraps any other transport."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.unit.client.fakeapi import status
from tiphys.base.clock import Clock
from tiphys.client.transport import ApiConnectionError, Response, Transport


@dataclass
class Rates:
    """How often each fault happens, from 0 to 1."""

    refused: float = 0.05  # 500 before the request took effect
    lost: float = 0.05  # the request took effect, its answer is lost
    conflict: float = 0.05  # 409 to a PUT
    broken: float = 0.1  # the watch ends, at any event
    delayed: float = 0.3  # an event arrives late
    repeated: float = 0.1  # an event arrives twice
    expired: float = 0.1  # a watch begins with 410

    @classmethod
    def none(cls) -> Rates:
        return cls(0, 0, 0, 0, 0, 0, 0)


class FaultyTransport:
    def __init__(self, inner: Transport, clock: Clock, seed: int, rates: Rates | None = None) -> None:
        self._inner = inner
        self._clock = clock
        self._random = random.Random(seed)
        self.rates = rates or Rates()

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self.rates = Rates.none()

    async def close(self) -> None:
        await self._inner.close()

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        roll = self._random.random()
        rates = self.rates
        if roll < rates.refused:
            return status(500, "InternalError", "etcdserver: request timed out")
        if method == "PUT" and roll < rates.refused + rates.conflict:
            return status(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        answer = await self._inner.request(method, target, headers, body)
        if method != "GET" and roll > 1 - rates.lost:
            raise ApiConnectionError("connection reset by peer")
        return answer

    @asynccontextmanager
    async def stream(self, target: str, headers: Mapping[str, str]) -> AsyncIterator[Any]:
        roll = self._random.random()
        if roll < self.rates.refused:
            raise ApiConnectionError("connection refused")
        if roll > 1 - self.rates.expired:
            yield _Expired()
            return
        async with self._inner.stream(target, headers) as answer:
            yield _FaultyStream(answer, self)


class _Expired:
    status = 410

    async def read(self) -> bytes:
        return status(410, "Expired", "too old resource version").body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b""


class _FaultyStream:
    def __init__(self, inner: Any, transport: FaultyTransport) -> None:
        self.status = inner.status
        self._inner, self._transport = inner, transport

    async def read(self) -> bytes:
        body: bytes = await self._inner.read()
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        random_ = self._transport._random
        async for chunk in self._inner.chunks():
            rates = self._transport.rates
            if random_.random() < rates.delayed:
                await self._transport._clock.sleep(random_.uniform(0.01, 2.0))
            if random_.random() < rates.broken:
                return
            yield chunk
            if random_.random() < rates.repeated:
                yield chunk


def decode(response: Response) -> Any:
    return json.loads(response.body)
