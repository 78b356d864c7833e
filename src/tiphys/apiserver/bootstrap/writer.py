"""Writes the server makes on its own behalf: through defaults, ownership and the registry, past admission."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from tiphys.apiserver.authn.interface import GROUP_MASTERS, UserInfo
from tiphys.apiserver.endpoints.managed import apply_fields, own_fields
from tiphys.apiserver.registry.resources import CacheReader, ResourceMap, ServedResource
from tiphys.apiserver.registry.store import NoAdmission
from tiphys.apiserver.registry.strategy import RequestContext
from tiphys.machinery.errors import AlreadyExistsError
from tiphys.machinery.normalize import normalize

Object = dict[str, Any]
SERVER: Final = UserInfo("system:apiserver", groups=(GROUP_MASTERS,))
MANAGER: Final = "kube-apiserver"


class Writer:
    """Reads and writes objects by group, version and plural, as the server itself."""

    def __init__(self, resources: ResourceMap, reader: CacheReader, now: Callable[[], datetime]) -> None:
        self._resources = resources
        self._reader = reader
        self._now = now

    def get(self, group: str, plural: str, namespace: str, name: str) -> Object | None:
        """The current object, None without one; shared, not to be changed."""
        return self._reader.get(group, plural, (namespace, name))

    async def create(self, group: str, version: str, plural: str, obj: Object, manager: str = MANAGER) -> bool:
        """Create an object; False when it was there already."""
        served = self._served(group, version, plural)
        namespace = obj["metadata"].get("namespace", "")
        ctx = self._context(namespace, "", manager)
        stored = served.to_storage(self._normal(served, obj))
        served.strategy.default(stored)
        own_fields(served, ctx, None, stored)
        try:
            await served.store.create(ctx, stored, NoAdmission())
        except AlreadyExistsError:
            return False
        return True

    async def update(
        self,
        group: str,
        version: str,
        plural: str,
        namespace: str,
        name: str,
        change: Callable[[Object], None],
        manager: str = MANAGER,
        *,
        subresource: str = "",
    ) -> None:
        """Change an object with `change`, called with a copy of the current version, again when somebody was faster."""
        served = self._served(group, version, plural)
        ctx = self._context(namespace, name, manager, subresource)

        async def make(old: Object | None, revision: int) -> Object:
            new = copy.deepcopy(old or {})
            change(new)
            served.strategy.default(new)
            own_fields(served, ctx, old, new)
            return new

        await served.store.update(ctx, make, NoAdmission(), patching=True)

    async def change_status(
        self, group: str, plural: str, namespace: str, name: str, change: Callable[[Object], None]
    ) -> None:
        """Change the status of an object, in its storage version. What `change` raises ends it; NotFoundError."""
        store = self._resources.store(group, plural)
        if store is None:
            raise LookupError(f"{group} {plural} is not served")
        version = store.resource.version
        await self.update(group, version, plural, namespace, name, change, subresource="status")

    async def apply_status(
        self, group: str, version: str, plural: str, name: str, status: Object, manager: str
    ) -> None:
        """Server-side apply of a cluster object's status, by force. NotFoundError when the object is gone."""
        served = self._served(group, version, plural)
        ctx = self._context("", name, manager, "status")
        applied = {
            "apiVersion": served.resource.api_version,
            "kind": served.resource.kind,
            "metadata": {"name": name},
            "status": status,
        }

        async def make(old: Object | None, revision: int) -> Object:
            live = served.from_storage(copy.deepcopy(old)) if old is not None else None
            return served.to_storage(apply_fields(served, ctx, live, applied, force=True))

        await served.store.update(ctx, make, NoAdmission(), patching=True)

    async def ensure(self, group: str, version: str, plural: str, obj: Object, manager: str = MANAGER) -> None:
        """Create an object unless it is there; its content is not looked at."""
        metadata = obj["metadata"]
        if self.get(group, plural, metadata.get("namespace", ""), metadata["name"]) is None:
            await self.create(group, version, plural, obj, manager)

    def _served(self, group: str, version: str, plural: str) -> ServedResource:
        served = self._resources.find(group, version, plural)
        if served is None:
            raise LookupError(f"{group}/{version} {plural} is not served")
        return served

    def _context(self, namespace: str, name: str, manager: str, subresource: str = "") -> RequestContext:
        return RequestContext(
            user=SERVER,
            now=self._now(),
            reader=self._reader,
            namespace=namespace,
            name=name,
            subresource=subresource,
            field_manager=manager,
        )

    @staticmethod
    def _normal(served: ServedResource, obj: Object) -> Object:
        fresh = copy.deepcopy(obj)
        return normalize(fresh, served.schema) if served.schema is not None else fresh
