"""How many ready endpoints each Service has, by a watch of EndpointSlices."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from bench.simulation.rig import Rig
from tiphys.api.base import Struct
from tiphys.client import ApiConnectionError, Client, Endpoint, EventType
from tiphys.client.endpoint import ListBody
from tiphys.machinery.errors import StatusError

NAME: Final = "kubernetes.io/service-name"


class _Meta(Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class _Conditions(Struct, frozen=True):
    ready: bool = False


class _Endpoint(Struct, frozen=True):
    conditions: _Conditions = _Conditions()


class _Slice(Struct, frozen=True):
    metadata: _Meta = _Meta()
    endpoints: tuple[_Endpoint, ...] | None = ()


_KIND: Final[Any] = _Slice
SLICES: Final[Endpoint[Any]] = Endpoint(
    prefix="/apis/discovery.k8s.io/v1",
    plural="endpointslices",
    namespaced=True,
    api_version="discovery.k8s.io/v1",
    kind="EndpointSlice",
    type=_KIND,
    decoder=msgspec.json.Decoder(_KIND),
    list_decoder=msgspec.json.Decoder(ListBody[_KIND]),
)


class Slices:
    """Follows while its block runs; Services that were there before do not count."""

    def __init__(self, rig: Rig) -> None:
        self._client = Client(rig.config, "bench-slices")
        self._of: dict[str, tuple[str, int]] = {}  # slice → its Service, its ready endpoints
        self._total: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        revision = (await self._client.list(SLICES)).resource_version
        self._task = asyncio.ensure_future(self._follow(revision))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._client.close()

    def ready(self) -> Counter[str]:
        """Service → ready endpoints; those without a slice are left out."""
        return self._total

    async def _follow(self, revision: str) -> None:
        while True:
            with suppress(ApiConnectionError, StatusError):
                async for event in self._client.watch(SLICES, resource_version=revision):
                    revision = event.resource_version
                    if event.type is not EventType.BOOKMARK:
                        self._note(event.object, event.type is EventType.DELETED)

    def _note(self, found: _Slice, gone: bool) -> None:
        key = f"{found.metadata.namespace}/{found.metadata.name}"
        service, before = self._of.pop(key, ("", 0))
        if service:
            self._total[service] -= before
        else:
            service = f"{found.metadata.namespace}/{found.metadata.labels.get(NAME, '')}"
        if not gone:
            ready = sum(each.conditions.ready for each in found.endpoints or ())
            self._of[key] = (service, ready)
            self._total[service] += ready
        elif not any(one == service for one, _ in self._of.values()):
            del self._total[service]
