"""The store of one version of a custom resource whose versions a webhook converts.

As CustomStore: between the request and the store everything happens in the version of the request. Writes are converted
to the storage version at the end, answers and reads back from whatever version an object was stored in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from tiphys.api.table import Resource
from tiphys.apiserver.crd.mirror import Mirror
from tiphys.apiserver.crd.store import CustomStore
from tiphys.apiserver.crd.strategy import CustomStrategy
from tiphys.apiserver.crd.translator import Translator
from tiphys.apiserver.registry.stored import MAX_OBJECT_BYTES, NOTHING, committed
from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.registry.templates import Known
from tiphys.apiserver.watchcache import Entry, WatchCache, encode_stored
from tiphys.machinery.errors import request_entity_too_large
from tiphys.machinery.normalize import normalize
from tiphys.machinery.schema import TypeSchema


class ConvertedStore(CustomStore):
    """See the module. What `kind` has is in this version already."""

    def __init__(
        self,
        strategy: CustomStrategy,
        mirror: Mirror,
        cache: WatchCache,
        now: Callable[[], datetime],
        schema: TypeSchema,
        storage: Resource,
        translator: Translator,
    ) -> None:
        super().__init__(strategy, mirror.kind, cache, now, schema, storage, exact=True)
        self.mirror = mirror
        self._translator = translator

    async def find(self, namespace: str, name: str) -> Entry | None:
        """See ResourceStore."""
        return await self.mirror.find(namespace, name)

    async def fresh(self) -> None:
        """See ResourceStore."""
        await self.mirror.fresh()

    @property
    def revision(self) -> int:
        """See ResourceStore."""
        return self.mirror.revision

    async def shown(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """See ResourceStore."""
        return await self._translator.entries(entries, self.api_version)

    async def stored(self, obj: Object) -> Object:
        """See ResourceStore."""
        if self.schema is not None:
            obj = normalize(obj, self.schema)
        obj["kind"], obj["apiVersion"] = self.resource.kind, self.api_version
        (found,) = await self._translator.objects([obj], self.storage.api_version)
        return found

    def in_version(self, obj: Object, api_version: str) -> tuple[Object, TypeSchema] | None:
        """See ResourceStore. Raises ConversionNeeded."""
        other = self.versions.get(api_version)
        if other is None or other.schema is None:
            return None
        return self._translator.object(obj, api_version), other.schema

    def _encode(
        self,
        key: str,
        obj: Object,
        like: Object | None = None,
        template: tuple[Known, bytes] | None = None,
        normal: Mapping[str, bytes] = NOTHING,
    ) -> bytes:
        # Nothing is said of labels and fields: in other versions of the object they may be others.
        value = encode_stored(obj, self.storage.kind, self.storage.api_version)
        if len(value) > MAX_OBJECT_BYTES:
            raise request_entity_too_large(f"limit is {MAX_OBJECT_BYTES}")
        return value

    async def _saved(self, namespace: str, name: str, revision: int) -> Entry:
        entry = committed(self.mirror.source, namespace, name, revision)
        return (await self._translator.entries([entry], self.api_version))[0]
