"""OpenApiService: the documents of what is served now, built when first asked for and kept compressed.

    /openapi/v2              whole, as JSON or gnostic protobuf       ETag
    /openapi/v3              index: path → URL with a hash of the document, so that clients may cache it for ever
    /openapi/v3/apis/apps/v1 one group and version

Building takes some hundred milliseconds, so it happens in a thread; results outlive the process in the cache directory,
keyed by what is served.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final
from zlib import error as ZlibError

import orjson
from isal import igzip

from tiphys.apiserver.discovery.documents import Discovery
from tiphys.apiserver.endpoints.compression import accepts_gzip
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import JSON, Answer, Response
from tiphys.apiserver.openapi.definitions import closure, load_definitions, names_by_kind, references
from tiphys.apiserver.openapi.gnostic import encode_document
from tiphys.apiserver.openapi.merging import Foreign, ForeignPart, merge
from tiphys.apiserver.openapi.paths import META, PathBuilder, group_name
from tiphys.apiserver.openapi.v3 import document_v3
from tiphys.apiserver.registry.resources import ResourceMap
from tiphys.base.log import get_logger

log = get_logger(__name__)
Object = dict[str, Any]

VERSION: Final = "v1.36.2"
FORMAT: Final = "3"  # of our own documents: raise it when their making changes
PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
GNOSTIC: Final = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
GNOSTIC_OLD: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"


@dataclass(frozen=True, slots=True)
class Document:
    """One document, compressed, with the hash of its plain form and the time it was made."""

    packed: bytes
    digest: str
    made: str  # an HTTP date

    @classmethod
    def of(cls, data: bytes) -> Document:
        """Compress a document."""
        return cls(
            igzip.compress(data, compresslevel=2, mtime=0),
            hashlib.sha512(data).hexdigest().upper(),
            formatdate(usegmt=True),
        )


class OpenApiService:
    """See the module. Documents are made again after the resources changed."""

    def __init__(self, resources: ResourceMap, discovery: Discovery, directory: Path | None) -> None:
        """`directory` keeps documents between starts; None keeps them in memory only."""
        self._resources = resources
        self._discovery = discovery
        self._directory = directory
        self._documents: dict[str, Document] = {}
        self._building: asyncio.Future[None] | None = None
        self._generation = 0
        # Documents of extension servers.
        self.foreign: Foreign | None = None
        # Definitions of custom resources, by name, each with its x-kubernetes-group-version-kind.
        self.custom: Callable[[], dict[str, Object]] = dict
        resources.on_change(self.changed)

    def changed(self) -> None:
        """Forget the documents: they are made again when asked for."""
        self._generation += 1
        self._documents = {}

    # --- endpoints -----------------------------------------------------------------------------------
    async def v2(self, request: Request) -> Response:
        """/openapi/v2: JSON unless protobuf is asked for."""
        accept = request.headers.get("accept", "")
        documents = await self._ready()
        if GNOSTIC in accept or GNOSTIC_OLD in accept:
            # The name that is asked for has an "@", which is not allowed in a media type that is answered with.
            return _answer(request, documents["v2.pb"], GNOSTIC_OLD)
        if not _takes_json(accept):
            return _refused()
        return _answer(request, documents["v2"], JSON)

    async def v3_index(self, request: Request) -> Response:
        """/openapi/v3."""
        documents = await self._ready()
        paths = {
            name.removeprefix("v3/"): f"/openapi/{name}?hash={document.digest}"
            for name, document in documents.items()
            if name.startswith("v3/")
        }
        paths |= {part.place: part.url for part in self._foreign_parts() if part.url}
        listed = {name: {"serverRelativeURL": paths[name]} for name in sorted(paths)}
        headers = [("Last-Modified", formatdate(usegmt=True))]
        return Response(200, orjson.dumps({"paths": listed}), content_type="text/plain; charset=utf-8", headers=headers)

    async def v3(self, request: Request, path: str) -> Answer | None:
        """/openapi/v3/PATH; None when there is none."""
        if any(part.place == path and part.url for part in self._foreign_parts()) and self.foreign is not None:
            return await self.foreign.document(request, path)
        documents = await self._ready()
        document = documents.get(f"v3/{path}")
        if document is None:
            return None
        if not _takes_json(request.headers.get("accept", "")):
            return _refused()
        digest = request.parameter("hash") if request.raw_query else ""
        if digest and digest != document.digest:
            location = f"/openapi/v3/{path}?hash={document.digest}"
            headers = [("Location", location), ("Etag", f'"{document.digest}"'), ("Vary", "Accept")]
            return Response(301, b"", headers=headers)
        return _answer(request, document, JSON, immutable=bool(digest))

    # --- building ------------------------------------------------------------------------------------
    async def _ready(self) -> dict[str, Document]:
        while not self._documents:
            if self._building is None:
                self._building = asyncio.ensure_future(self._build())
                self._building.add_done_callback(self._built)
            await asyncio.shield(self._building)
        return self._documents

    def _built(self, _: asyncio.Future[None]) -> None:
        self._building = None

    def _foreign_parts(self) -> Sequence[ForeignPart]:
        return self.foreign.parts() if self.foreign is not None else ()

    async def _build(self) -> None:
        generation = self._generation
        served, custom, foreign = self._served(), self.custom(), self._foreign_parts()
        key = hashlib.sha256(orjson.dumps([VERSION, FORMAT, served, custom])).hexdigest()[:24]
        documents = await asyncio.to_thread(self._load_or_make, key, served, custom, foreign)
        if generation == self._generation:
            self._documents = documents

    def _served(self) -> list[tuple[str, str, list[str]]]:
        found: dict[tuple[str, str], list[str]] = {}
        for resource in self._resources.resources():
            found.setdefault((resource.group, resource.version), []).append(resource.plural)
        return [(group, version, sorted(plurals)) for (group, version), plurals in sorted(found.items())]

    def _load_or_make(
        self,
        key: str,
        served: list[tuple[str, str, list[str]]],
        custom: dict[str, Object],
        foreign: Sequence[ForeignPart],
    ) -> dict[str, Document]:
        # Definitions and other servers come and go: not worth a file each time.
        keep = self._directory is not None and not custom and not foreign
        path = self._directory / f"openapi-{key}.json.gz" if keep and self._directory is not None else None
        if path is not None and path.exists():
            try:
                stored = orjson.loads(_unpacked(path.read_bytes()))
                return {name: Document.of(bytes.fromhex(text)) for name, text in stored.items()}
            except (OSError, ValueError, KeyError, ZlibError):
                log.warning("the cached OpenAPI documents in %s cannot be read; they are made again", path)
        made = self._make(served, custom, foreign)
        if path is not None:
            self._keep(path, made)
        return {name: Document.of(data) for name, data in made.items()}

    @staticmethod
    def _keep(path: Path, made: dict[str, bytes]) -> None:
        packed = igzip.compress(orjson.dumps({name: data.hex() for name, data in made.items()}), compresslevel=2)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as out:
                out.write(packed)
            Path(out.name).replace(path)
        except OSError as error:
            log.warning("the OpenAPI documents cannot be kept in %s: %s", path.parent, error)

    def _make(
        self, served: list[tuple[str, str, list[str]]], custom: dict[str, Object], foreign: Sequence[ForeignPart]
    ) -> dict[str, bytes]:
        definitions = load_definitions()
        definitions.update(custom)
        names = names_by_kind(definitions)
        found: dict[str, bytes] = {}
        everything: dict[str, Object] = {}
        own = {one["group"] for schema in custom.values() for one in schema["x-kubernetes-group-version-kind"]}
        for group, version, plurals in served:
            builder = PathBuilder(group, version, names, custom=group in own)
            resources = [
                resource
                for resource in self._resources.resources()
                if (resource.group, resource.version) == (group, version) and resource.plural in plurals
            ]
            resources = [one for one in resources if (group, version, one.kind) in names]
            paths = builder.paths(sorted(resources, key=lambda one: one.plural))
            everything.update(paths)
            place = f"apis/{group}/{version}" if group else f"api/{version}"
            used = closure(references(paths), definitions)
            found[f"v3/{place}"] = orjson.dumps(document_v3(paths, used, VERSION))
        for place, operation in _fixed_paths([group for group, _, _ in served if group]).items():
            everything[f"/{place}/"] = operation
            item = {f"/{place}/": operation}
            found[f"v3/{place}"] = orjson.dumps(document_v3(item, closure(references(item), definitions), VERSION))
        used = closure(references(everything), definitions)
        usable = [part for part in foreign if _encodable(part)]
        merge(everything, used, usable)
        for part in usable:
            if not part.url and part.paths:
                found[f"v3/{part.place}"] = orjson.dumps(document_v3(dict(part.paths), dict(part.definitions), VERSION))
        document = {
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": VERSION},
            "paths": dict(sorted(everything.items())),
            "definitions": {name: _form_v2(one) if name in custom else one for name, one in sorted(used.items())},
        }
        found["v2"] = orjson.dumps(document)
        found["v2.pb"] = encode_document(document)
        return found


def _form_v2(schema: Object) -> Object:
    """The definition of a custom resource in v2: a whole object of unknown fields is just an object there."""
    return schema if "properties" in schema else {key: schema[key] for key in schema if key != PRESERVE}


def _encodable(part: ForeignPart) -> bool:
    """Whether another server's part can be written in every form; one that is not well-formed is left out."""
    document = {
        "swagger": "2.0",
        "info": {"title": "", "version": ""},
        "paths": part.paths,
        "definitions": part.definitions,
    }
    try:
        encode_document(document)
        document_v3(dict(part.paths), dict(part.definitions), VERSION)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        log.warning("the OpenAPI document of %s is not well-formed and is left out: %r", part.place, error)
        return False
    return True


def _unpacked(data: bytes) -> bytes:
    plain: bytes = igzip.decompress(data)  # type: ignore[no-untyped-call]  # isal has types for all but this
    return plain


def _fixed_paths(groups: list[str]) -> dict[str, Object]:
    """Paths that are no resources: discovery, version, issuer discovery."""

    def get(name: str, text: str, answer: str) -> Object:
        schema: Object = {"schema": {"$ref": f"#/definitions/{answer}"}} if answer else {"schema": {"type": "string"}}
        return {
            "get": {
                "description": text,
                "consumes": ["application/json"],
                "produces": ["application/json"],
                "schemes": ["https"],
                "operationId": name,
                "responses": {"200": {"description": "OK", **schema}, "401": {"description": "Unauthorized"}},
            }
        }

    found = {
        ".well-known/openid-configuration": get(
            "getServiceAccountIssuerOpenIDConfiguration",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            "",
        ),
        "api": get("getCoreAPIVersions", "get available API versions", META + "APIVersions"),
        "apis": get("getAPIVersions", "get available API versions", META + "APIGroupList"),
        "openid/v1/jwks": get(
            "getServiceAccountIssuerOpenIDKeyset",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            "",
        ),
        "version": get(
            "getCodeVersion", "get the version information for this server", "io.k8s.apimachinery.pkg.version.Info"
        ),
    }
    for group in sorted(set(groups)):
        found[f"apis/{group}"] = get(f"get{group_name(group)}APIGroup", "get information of a group", META + "APIGroup")
    return found


_VARY: Final = (("Vary", "Accept-Encoding"), ("Vary", "Accept"))


def _takes_json(accept: str) -> bool:
    return not accept or any(one in accept for one in ("*/*", JSON, "application/*"))


def _refused() -> Response:
    """406 as these documents say it: without a word."""
    return Response(406, b"", content_type="", headers=_VARY)


def _answer(request: Request, document: Document, content_type: str, *, immutable: bool = False) -> Response:
    etag = f'"{document.digest}"'
    headers = [("Etag", etag), ("Last-Modified", document.made), *_VARY]
    if immutable:
        headers.append(("Cache-Control", "public, immutable"))
    if request.headers.get("if-none-match", "") == etag:
        return Response(304, b"", content_type="", headers=headers)
    if accepts_gzip(request):
        headers.append(("Content-Encoding", "gzip"))
        return Response(200, document.packed, content_type=content_type, headers=headers)
    return Response(200, _unpacked(document.packed), content_type=content_type, headers=headers)
