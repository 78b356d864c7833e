"""Shared informers: one cache and one watch a kind and selection, used by everyone in the process.

A handler is called synchronously, in the loop, in the order of the changes; it must be quick, and
usually only puts a key into a work queue. For one object it sees: add, any number of updates,
delete; an object deleted and made again under its name is seen as a delete and an add, also when
both happened while the watch was broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client.cache import Indexer, IndexFunction, Lister, key_of
from tiphys.client.endpoint import Endpoint, Object, endpoint_of
from tiphys.client.reflector import Reflector
from tiphys.client.rest import Client
from tiphys.client.results import EventType, ListResult, WatchEvent
from tiphys.client.sharing import Siblings
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

T = TypeVar("T", bound=Object)


@dataclass(frozen=True, slots=True)
class Handler(Generic[T]):
    """What to call; a missing function is not called."""

    on_add: Callable[[T], None] | None
    on_update: Callable[[T, T], None] | None
    on_delete: Callable[[T], None] | None


class SharedInformer(Generic[T]):
    """The cache of one kind and its handlers. `name` is for logs."""

    def __init__(self, name: str, siblings: Siblings | None = None) -> None:
        self.name = name
        self._siblings = siblings
        self.resource_version = ""
        self._indexer: Indexer[T] = Indexer()
        self.lister: Lister[T] = Lister(self._indexer)
        self._handlers: list[Handler[T]] = []
        self._synced = asyncio.Event()

    def add_handler(
        self,
        on_add: Callable[[T], None] | None = None,
        on_update: Callable[[T, T], None] | None = None,
        on_delete: Callable[[T], None] | None = None,
    ) -> None:
        """Call these for every change; for what is in the cache already, `on_add` is called now.

        `on_update(old, new)`; `on_delete` gets the last state known.
        """
        handler = Handler(on_add, on_update, on_delete)
        self._handlers.append(handler)
        if on_add is not None:
            for obj in list(self._indexer.objects.values()):
                self._call(on_add, obj)

    def add_index(self, name: str, function: IndexFunction[T]) -> None:
        """Make `lister.by_index(name, value)` work; adding a name again changes nothing."""
        self._indexer.add_index(name, function)

    @property
    def has_synced(self) -> bool:
        """Whether the first list is in the cache."""
        return self._synced.is_set()

    def has_seen(self, resource_version: str) -> bool:
        """Whether the cache shows the state as of `resource_version`, or a later one.

        Who wrote an object and waits for this reads his own writes, whatever became of them since.
        """
        return _revision(self.resource_version) >= _revision(resource_version)

    async def synced(self) -> None:
        """Wait for the first list."""
        await self._synced.wait()

    def resync(self) -> None:
        """Tell every handler of every object again, as an update of it to itself."""
        for obj in list(self._indexer.objects.values()):
            self._updated(obj, obj)

    # The reflector's sink

    def replace(self, items: Sequence[T], resource_version: str) -> None:
        """Make the cache equal to `items`; handlers see the difference."""
        self.resource_version = resource_version
        listed = {key_of(obj): obj for obj in items}
        for key in [key for key in self._indexer.objects if key not in listed]:
            self._remove(key, None)
        for key, obj in listed.items():
            old = self._indexer.objects.get(key)
            if old is None or old.metadata.resource_version != obj.metadata.resource_version:
                self._put(key, obj)
        self._synced.set()

    def apply(self, events: Sequence[WatchEvent[T]]) -> None:
        """Apply changes; one that is not newer than the cache has been seen before and is passed over."""
        for event in events:
            self.resource_version = event.resource_version
            if event.type is EventType.BOOKMARK:
                continue
            key = key_of(event.object)
            old = self._indexer.objects.get(key)
            if old is not None and _newer(old, event.object):
                continue
            if event.type is EventType.DELETED:
                self._remove(key, event.object)
            elif old is None or old.metadata.resource_version != event.resource_version:
                self._put(key, event.object)

    def _put(self, key: ObjectName, obj: T) -> None:
        old = self._indexer.objects.get(key)
        if old is not None and old.metadata.uid != obj.metadata.uid:
            self._remove(key, None)
            old = None
        _trim(obj)
        if self._siblings is not None:
            self._siblings.share(key, obj, old, self._indexer.objects)
        self._indexer.put(key, obj)
        if old is not None:
            self._updated(old, obj)
            return
        for handler in self._handlers:
            if handler.on_add is not None:
                self._call(handler.on_add, obj)

    def _updated(self, old: T, new: T) -> None:
        for handler in self._handlers:
            if handler.on_update is not None:
                self._call(handler.on_update, old, new)

    def _remove(self, key: ObjectName, last: T | None) -> None:
        old = self._indexer.remove(key)
        if old is None:
            return
        for handler in self._handlers:
            if handler.on_delete is not None:
                self._call(handler.on_delete, last if last is not None else old)

    def _call(self, function: Callable[..., None], *args: T) -> None:
        try:
            function(*args)
        except Exception:
            # One handler's bug must not hide the change from the others.
            log.exception("handler of %s failed", self.name)


def _trim(obj: Object) -> None:
    """Drop the managed fields, in place: two thirds of a pod's memory, and nobody reads them from a cache.

    The object was decoded for this cache and nobody else has it yet. An update without them keeps those there are.
    """
    if getattr(obj.metadata, "managed_fields", None):
        msgspec.structs.force_setattr(obj.metadata, "managed_fields", ())


def _newer(cached: Object, event: Object) -> bool:
    # Resource versions are comparable numbers: https://kubernetes.io/docs/reference/using-api/api-concepts/
    return _revision(cached.metadata.resource_version) > _revision(event.metadata.resource_version)


def _revision(resource_version: str) -> int:
    return int(resource_version) if resource_version.isdigit() else 0


@dataclass(frozen=True, slots=True)
class _ClientListWatch(Generic[T]):
    client: Client
    endpoint: Endpoint[T]
    namespace: str
    label_selector: str
    field_selector: str

    async def list(self) -> ListResult[T]:
        return await self.client.list(
            self.endpoint,
            namespace=self.namespace,
            label_selector=self.label_selector,
            field_selector=self.field_selector,
        )

    def watch(self, resource_version: str) -> AsyncGenerator[Sequence[WatchEvent[T]], None]:
        return self.client.watch_batches(
            self.endpoint,
            namespace=self.namespace,
            label_selector=self.label_selector,
            field_selector=self.field_selector,
            resource_version=resource_version,
        )


class Informers:
    """The informers of a process, by kind and selection. Ask with `of` any time, also after `run` began."""

    def __init__(self, client: Client, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._informers: dict[tuple[str, ...], SharedInformer[Any]] = {}
        self._loops: dict[tuple[str, ...], Reflector[Any]] = {}
        self._running: dict[tuple[str, ...], asyncio.Task[None]] = {}
        self._tasks: Supervised | None = None

    def of(
        self,
        kind: type[T] | Endpoint[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> SharedInformer[T]:
        """The informer of `kind`, narrowed; the same arguments give the same informer."""
        endpoint = kind if isinstance(kind, Endpoint) else endpoint_of(kind)
        form = endpoint.list_accept
        key = (endpoint.prefix, endpoint.plural, namespace, label_selector, field_selector, form)
        informer: SharedInformer[T] | None = self._informers.get(key)
        if informer is None:
            siblings = Siblings() if (endpoint.prefix, endpoint.plural) == ("/api/v1", "pods") else None
            informer = SharedInformer(f"{endpoint.plural}.{endpoint.api_version}", siblings)
            source = _ClientListWatch(self._client, endpoint, namespace, label_selector, field_selector)
            self._informers[key] = informer
            self._loops[key] = Reflector(source, informer, self._clock, informer.name)
            if self._tasks is not None:
                self._start(self._tasks, key)
        return informer

    def whole(self, endpoint: Endpoint[Any]) -> SharedInformer[Any] | None:
        """The informer of all objects of this resource that somebody asked for in another form; None: nobody has.

        For who needs only their metadata: one watch and one copy of each object are enough for a process.
        """
        for key, informer in self._informers.items():
            if key[:5] == (endpoint.prefix, endpoint.plural, "", "", "") and key[5] != endpoint.list_accept:
                return informer
        return None

    async def synced(self) -> None:
        """Wait until every informer asked for so far has its first list."""
        for informer in list(self._informers.values()):
            await informer.synced()

    async def run(self) -> None:
        """Follow the server until cancelled."""
        async with Supervised(self._clock) as tasks:
            self._tasks = tasks
            try:
                for key in list(self._loops):
                    self._start(tasks, key)
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None
                self._running.clear()

    async def forget(self, informer: SharedInformer[T]) -> None:
        """Stop following one kind and drop its cache, for example when its CRD is gone."""
        for key, known in list(self._informers.items()):
            if known is informer:
                del self._informers[key], self._loops[key]
                task = self._running.pop(key, None)
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})

    def _start(self, tasks: Supervised, key: tuple[str, ...]) -> None:
        loop = self._loops[key]
        self._running[key] = tasks.spawn(loop.run, name=f"reflector {'/'.join(key[:2])}", restart=True)
