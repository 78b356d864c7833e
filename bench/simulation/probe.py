"""A client that uses the cluster all the while as a person would, and how long it waits for each answer.

One object read, written, made and deleted; the pods of a namespace; and once a minute every pod there is, whole.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable
from contextlib import suppress
from itertools import count
from typing import Any, Final

from tiphys.client import ApiConnectionError, Client, PatchType
from tiphys.machinery.errors import AlreadyExistsError, StatusError

HOME: Final = "bench-probe"
EVERY: Final = 0.25  # seconds between requests
MERGE: Final = str(PatchType.MERGE)


class Probe:
    """`waits`: what was asked → seconds of each answer, since `forget`."""

    def __init__(self, nodes: int, list_every: float) -> None:
        self.waits: dict[str, list[float]] = defaultdict(list)
        self.largest = 0  # bytes of the largest list
        self.errors: list[str] = []
        self._nodes = nodes
        self._list_every = list_every

    def forget(self) -> None:
        """Begin anew."""
        self.waits = defaultdict(list)

    async def prepare(self, client: Client) -> None:
        """Make what it writes to."""
        with suppress(AlreadyExistsError):
            await client.request_json("POST", "/api/v1/namespaces", {"metadata": {"name": HOME}})
            await client.request_json("POST", f"/api/v1/namespaces/{HOME}/configmaps", {"metadata": {"name": "probe"}})

    async def run(self, client: Client) -> None:
        """Ask until cancelled."""
        await asyncio.gather(self._singles(client), self._lists(client))

    async def _singles(self, client: Client) -> None:
        maps = f"/api/v1/namespaces/{HOME}/configmaps"
        for turn in count():
            node = f"/api/v1/nodes/simulated-{turn % self._nodes + 1:05d}"
            asks: list[tuple[str, str, str, Any]] = [
                ("get one", "GET", node, None),
                ("patch one", "PATCH", f"{maps}/probe", {"data": {"turn": str(turn)}}),
                ("create one", "POST", maps, {"metadata": {"name": f"probe-{turn}"}}),
                ("delete one", "DELETE", f"{maps}/probe-{turn}", None),
            ]
            for what, method, path, body in asks:
                kind = MERGE if method == "PATCH" else "application/json"
                await self._timed(what, client.request_json(method, path, body, content_type=kind))
                await asyncio.sleep(EVERY)
            if turn % 4 == 0:
                await self._timed("list a namespace", self._whole(client, "/api/v1/namespaces/load-0/pods"))

    async def _lists(self, client: Client) -> None:
        while self._list_every:
            await asyncio.sleep(self._list_every)
            await self._timed("list every pod", self._whole(client, "/api/v1/pods"))

    async def _whole(self, client: Client, path: str) -> None:
        # Whole, not in pages; read as it comes, since this process need not hold it.
        size = 0
        async for piece in client.stream_bytes(path):
            size += len(piece)
        self.largest = max(self.largest, size)

    async def _timed(self, what: str, request: Awaitable[object]) -> None:
        began = time.monotonic()
        try:
            await request
        except (StatusError, ApiConnectionError) as error:
            self.errors.append(f"{what}: {error}")
            return
        self.waits[what].append(time.monotonic() - began)
