"""Where a kind lives on the server and how its bytes become objects.

One `Endpoint` a kind is made on first use and kept: its decoders are compiled once. Objects are the
frozen structs of `tiphys.api`; kinds known only at run time (custom resources, and everything the
garbage collector looks at) are read as `PartialObject`, of which only the metadata is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from tiphys.api.base import Struct
from tiphys.api.codec import encode_object, from_dict
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.table import resource_of

JSON: Final = "application/json"
_METADATA: Final = "application/json;as={};g=meta.k8s.io;v=v1,application/json"


class Object(Protocol):
    """What every object of the API has."""

    @property
    def metadata(self) -> ObjectMeta: ...


T = TypeVar("T", bound=Object)
L = TypeVar("L")


class PartialObject(Struct, frozen=True, kw_only=True):
    """An object of any kind, seen as its metadata alone."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()


class ListHead(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The metadata of a list."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class ListBody(msgspec.Struct, Generic[L], frozen=True, gc=False):
    """A list as it is on the wire."""

    metadata: ListHead = ListHead()
    items: list[L] | None = None


class WatchLine(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch; the object stays bytes until its type is known."""

    type: str
    object: msgspec.Raw


_encoder: Final = msgspec.json.Encoder()
watch_line: Final = msgspec.json.Decoder(WatchLine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[T]):
    """One resource: `prefix` is /api/v1 or /apis/GROUP/VERSION."""

    prefix: str
    plural: str
    namespaced: bool
    api_version: str
    kind: str
    type: type[T]
    decoder: msgspec.json.Decoder[T]
    list_decoder: msgspec.json.Decoder[ListBody[T]]
    accept: str = JSON
    list_accept: str = JSON

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of the collection, of one object, or of its subresource; no namespace means all of them."""
        parts = [self.prefix]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def decode(self, data: bytes | msgspec.Raw) -> T:
        """One object. Raises msgspec.ValidationError for what is not one."""
        try:
            return self.decoder.decode(data)
        except msgspec.ValidationError:
            # Servers may send null for an empty list or map; only then is the slow way needed.
            return from_dict(self.type, msgspec.json.decode(data))  # type: ignore[type-var]  # any kind is a Struct

    def decode_list(self, data: bytes) -> ListBody[T]:
        """A list of them."""
        try:
            return self.list_decoder.decode(data)
        except msgspec.ValidationError:
            body = msgspec.json.decode(data)
            head = msgspec.convert(body.get("metadata") or {}, ListHead)
            items = [from_dict(self.type, item) for item in body.get("items") or ()]  # type: ignore[type-var]
            return ListBody(head, items)


def encode_body(body: Any) -> bytes:
    """What a request carries: a typed object, or plain JSON data that may have typed parts."""
    return encode_object(body) if isinstance(body, Struct) else _encoder.encode(body)


_endpoints: dict[type, Endpoint[Any]] = {}


def endpoint_of(kind: type[T]) -> Endpoint[T]:
    """The endpoint of a generated type; raises KeyError for a type that is no resource."""
    endpoint = _endpoints.get(kind)
    if endpoint is None:
        endpoint = _endpoints[kind] = _make_endpoint(kind)
    return endpoint


def _make_endpoint(kind: type[T]) -> Endpoint[T]:
    resource = resource_of(kind)
    return Endpoint(
        prefix=api_prefix(resource.group, resource.version),
        plural=resource.plural,
        namespaced=resource.namespaced,
        api_version=f"{resource.group}/{resource.version}" if resource.group else resource.version,
        kind=resource.kind,
        type=kind,
        decoder=msgspec.json.Decoder(kind),
        list_decoder=msgspec.json.Decoder(ListBody[kind]),  # type: ignore[valid-type]  # a type at run time
    )


def metadata_endpoint(group: str, version: str, plural: str, kind: str, *, namespaced: bool) -> Endpoint[PartialObject]:
    """The endpoint of any kind, of which the server is asked for the metadata only."""
    return Endpoint(
        prefix=api_prefix(group, version),
        plural=plural,
        namespaced=namespaced,
        api_version=f"{group}/{version}" if group else version,
        kind=kind,
        type=PartialObject,
        decoder=_partial,
        list_decoder=_partial_list,
        accept=_METADATA.format("PartialObjectMetadata"),
        list_accept=_METADATA.format("PartialObjectMetadataList"),
    )


def api_prefix(group: str, version: str) -> str:
    """/api/v1 for the core group, /apis/GROUP/VERSION for the others."""
    return f"/apis/{group}/{version}" if group else f"/api/{version}"


_partial: Final = msgspec.json.Decoder(PartialObject)
_partial_list: Final = msgspec.json.Decoder(ListBody[PartialObject])
