"""Versions of one definition whose objects a webhook converts.

    stored (any version) ─ pruned and defaulted by the schema of that version ─ webhook ─ pruned ─▶ version asked for

Defaults are those of the version an object is stored in: what comes from the webhook is taken as it is, as upstream.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from tiphys.apiserver.crd.conversion import ConversionWebhook, Object
from tiphys.apiserver.crd.structural import Structural, pruned, set_defaults
from tiphys.apiserver.registry.on_demand import ConversionNeeded
from tiphys.apiserver.watchcache import Entry, encode_stored

MAX_REQUEST: Final = 2 * 1024 * 1024  # bytes of objects sent at once; more go in further requests
MAX_KEPT: Final = 64  # conversions kept for the steps that ask for them again


class Translator:
    """Makes versions of objects. `schemas` has the skeletons of all versions of the definition, by apiVersion."""

    def __init__(self, kind: str, schemas: Mapping[str, Structural], webhook: ConversionWebhook) -> None:
        self._kind = kind
        self._schemas = schemas
        self._webhook = webhook
        self._kept: OrderedDict[tuple[bytes, str], Object] = OrderedDict()

    def in_version(self, entry: Entry, api_version: str) -> Entry | None:
        """An entry that is stored in a version, as that version shows it; None when a webhook has to be asked."""
        if version_of(entry) != api_version:
            return None
        obj = orjson.loads(entry.head + entry.tail)
        shaped = self._shaped(obj, api_version)
        return entry if shaped == obj else self._entry(entry, shaped, api_version)

    async def entries(self, entries: Sequence[Entry], api_version: str) -> list[Entry]:
        """Entries in a version, in their order, converted in one request. StatusError (500) when that fails."""
        found = [self.in_version(entry, api_version) for entry in entries]
        missing = [index for index, one in enumerate(found) if one is None]
        while missing:
            some = _first_of(missing, entries)
            missing = missing[len(some) :]
            objects = [orjson.loads(entries[index].head + entries[index].tail) for index in some]
            shaped = [self._shaped(obj, obj["apiVersion"]) for obj in objects]
            for index, obj in zip(some, await self.objects(shaped, api_version), strict=True):
                found[index] = self._entry(entries[index], obj, api_version)
        return [entry for entry in found if entry is not None]

    async def objects(self, objects: Sequence[Object], api_version: str) -> list[Object]:
        """Objects in a version, in their order, without what its schema does not know. StatusError (500)."""
        converted = await self._webhook.convert(objects, api_version)
        schema = self._schemas.get(api_version)
        return [obj if schema is None else pruned(obj, schema, resource=True) for obj in converted]

    def object(self, obj: Object, api_version: str) -> Object:
        """A fresh copy of an object in another version. Raises ConversionNeeded when it is not there yet."""
        if obj.get("apiVersion") == api_version:
            return copy.deepcopy(obj)
        key = orjson.dumps(obj, option=orjson.OPT_SORT_KEYS), api_version
        known = self._kept.get(key)
        if known is not None:
            return copy.deepcopy(known)

        async def meet() -> None:
            (found,) = await self.objects([obj], api_version)
            self._kept[key] = copy.deepcopy(found)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

        raise ConversionNeeded(meet)

    def _shaped(self, obj: Object, api_version: str) -> Object:
        schema = self._schemas.get(api_version)
        if schema is None:
            return obj  # a version that is gone from the definition
        shaped: Object = pruned(obj, schema, resource=True)
        if schema.has_defaults:
            shaped = copy.deepcopy(shaped)
            set_defaults(shaped, schema)
        return shaped

    def _entry(self, entry: Entry, obj: Object, api_version: str) -> Entry:
        value = encode_stored(obj, self._kind, api_version)
        return Entry(entry.key, entry.namespace, entry.name, value, entry.revision, entry.create_revision)


def version_of(entry: Entry) -> str:
    """The apiVersion an entry is stored in."""
    return _version_of_head(entry.head)


_VERSIONS: Final[dict[bytes, str]] = {}  # few: one a kind and version


def _version_of_head(head: bytes) -> str:
    found = _VERSIONS.get(head)
    if found is None:
        found = _VERSIONS[head] = orjson.loads(head + b'"metadata":{}}')["apiVersion"]
    return found


def _first_of(indexes: Sequence[int], entries: Sequence[Entry]) -> list[int]:
    """As many as go into one request, at least one."""
    size = 0
    taken: list[int] = []
    for index in indexes:
        size += len(entries[index].tail)
        if taken and size > MAX_REQUEST:
            break
        taken.append(index)
    return taken
