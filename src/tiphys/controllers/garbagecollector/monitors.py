"""Watches the metadata of every kind that can be deleted, and follows kinds that come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tiphys.base.log import get_logger
from tiphys.client import (
    ApiConnectionError,
    ApiResource,
    Client,
    Discovery,
    Informers,
    PartialObject,
    SharedInformer,
    discover,
)
from tiphys.controllers.garbagecollector.graph import Identity
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

# Events are many, short-lived, and never owned.
IGNORED: Final = frozenset({("", "events"), ("events.k8s.io", "events")})

Seen = Callable[[Identity, PartialObject], None]


class Monitors:
    """The informers of all kinds; every object seen is reported with its identity."""

    def __init__(self, client: Client, informers: Informers, on_seen: Seen, on_gone: Seen) -> None:
        self._client = client
        self._informers = informers
        self._on_seen = on_seen
        self._on_gone = on_gone
        self._monitors: dict[ApiResource, SharedInformer[PartialObject]] = {}
        self._own: set[ApiResource] = set()  # those nobody else follows
        self.discovery = Discovery((), {})

    async def refresh(self) -> None:
        """Ask what kinds there are, begin to watch new ones and stop where one is gone.

        A group that cannot be discovered now keeps the monitors it has.
        """
        self.discovery = await discover(self._client)
        wanted = {
            resource
            for resource in self.discovery.preferred("list", "watch", "delete")
            if (resource.group, resource.plural) not in IGNORED
        }
        for resource in wanted - self._monitors.keys():
            self._begin(resource)
        for resource in self._monitors.keys() - wanted:
            if resource.api_version not in self.discovery.failed:
                await self._end(resource)

    async def synced(self) -> None:
        """Wait until every kind has been listed, or is gone."""
        for resource, informer in list(self._monitors.items()):
            while not informer.has_synced:
                if resource not in self._monitors:
                    break
                await informer.synced()

    def find(self, api_version: str, kind: str) -> ApiResource | None:
        """The resource of a kind as an owner reference names it."""
        return self.discovery.find(api_version, kind)

    async def refresh_quietly(self) -> bool:
        """`refresh`, False when the server cannot be asked."""
        try:
            await self.refresh()
        except (TimeoutError, StatusError, ApiConnectionError) as error:
            log.warning("garbage collector: discovery failed: %s", error)
            return False
        return True

    def _begin(self, resource: ApiResource) -> None:
        # Pods and the like are cached whole for other controllers already; their metadata is part of that.
        informer = self._informers.whole(resource.endpoint)
        if informer is None:
            informer = self._informers.of(resource.endpoint)
            self._own.add(resource)
        self._monitors[resource] = informer

        def identity(obj: PartialObject) -> Identity:
            meta = obj.metadata
            return Identity(resource.api_version, resource.kind, meta.namespace, meta.name, meta.uid)

        informer.add_handler(
            lambda obj: self._on_seen(identity(obj), obj),
            lambda old, new: None if _is_same(old, new) else self._on_seen(identity(new), new),
            lambda obj: self._on_gone(identity(obj), obj),
        )

    async def _end(self, resource: ApiResource) -> None:
        informer = self._monitors.pop(resource)
        if resource in self._own:
            self._own.discard(resource)
            await self._informers.forget(informer)


def _is_same(old: PartialObject, new: PartialObject) -> bool:
    """Whether a change was one of those, nearly all, that have nothing to do with owning and deleting."""
    before, after = old.metadata, new.metadata
    return (
        before.owner_references == after.owner_references
        and before.deletion_timestamp == after.deletion_timestamp
        and before.finalizers == after.finalizers
    )
