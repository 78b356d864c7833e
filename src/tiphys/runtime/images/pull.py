"""Pulling: from a reference to an image of the store.

    resolve the reference to a manifest (mirrors first) ─► its configuration ─► the layers that are missing:
    downloaded side by side, verified by digest, unpacked lowest first ─► the index

A download that breaks is taken up where it ended, also by the next pull. Two nodes of a machine that pull the same
image share the work: one downloads a layer, the other waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import msgspec

from tiphys.base.log import get_logger
from tiphys.runtime import linux
from tiphys.runtime.errors import NotFound, RuntimeFault, Unavailable, Unreachable
from tiphys.runtime.images import layers
from tiphys.runtime.images.config import ImageConfig, MalformedDocument, items, mapping
from tiphys.runtime.images.reference import Reference
from tiphys.runtime.images.registry import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Credentials,
    Registry,
)
from tiphys.runtime.images.store import Image, ImageStore, digest_of, layer_names
from tiphys.runtime.options import RegistryOptions

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")
ATTEMPTS: Final = 4  # a blob's download is taken up this often
MAX_CONFIG: Final = 8 << 20
FIRST_WAIT: Final = 0.5  # seconds before a second attempt

__all__ = ["Credentials", "Puller"]


class Blocking(Protocol):
    """Runs work in a worker thread."""

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob as a manifest names it."""

    digest: str
    size: int
    media_type: str = ""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Descriptor:
        """Raises MalformedDocument."""
        digest, size = str(document.get("digest", "")), document.get("size", 0)
        if not _DIGEST.fullmatch(digest):
            raise MalformedDocument(f"unsupported digest {digest[:100]!r}")
        if not isinstance(size, int) or size < 0:
            raise MalformedDocument(f"size of {digest} is {str(size)[:100]!r}")
        return cls(digest, size, str(document.get("mediaType", "")))


class Puller:
    """Pulls images into a store."""

    def __init__(
        self,
        store: ImageStore,
        options: RegistryOptions,
        blocking: Blocking,
        received: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`received` hears the size of each piece of a layer as it arrives, in bytes."""
        self._store = store
        self._received = received
        self._options = options
        self._blocking = blocking
        self._locks: dict[str, asyncio.Lock] = {}

    async def pull(self, reference: Reference, credentials: Credentials) -> Image:
        """Pull `reference`; the errors are worded as containerd's, for that is what users search for.

        Raises Unreachable only when nothing that could have the image was there to be asked.
        """
        try:
            return await self._pull(reference, credentials)
        except RuntimeFault as error:
            raise type(error)(f'failed to pull and unpack image "{reference}": {error}') from error
        except layers.LayerError as error:
            raise RuntimeFault(f'failed to pull and unpack image "{reference}": {error}') from error
        except MalformedDocument as error:
            said = f'failed to pull and unpack image "{reference}": malformed manifest or configuration: {error}'
            raise RuntimeFault(said) from error

    async def _pull(self, reference: Reference, credentials: Credentials) -> Image:
        failures: list[RuntimeFault] = []
        for base in base_urls(reference, self._options):
            async with Registry(reference, base, credentials, self._options) as registry:
                try:
                    manifest, digest, resolved = await self._resolve(registry, reference)
                except RuntimeFault as error:
                    failures.append(error)
                    continue
                try:
                    return await self._fetch(registry, reference, manifest, digest, resolved)
                except Unreachable as error:
                    raise Unavailable(str(error)) from error  # it was there a moment ago
        worst = _most_telling(failures)
        raise type(worst)(f'failed to resolve reference "{reference}": {worst}') from worst

    async def _resolve(self, registry: Registry, reference: Reference) -> tuple[dict[str, Any], str, str]:
        """(manifest for this machine, its digest, the digest the reference stands for)."""
        wanted = reference.digest or reference.tag
        found = await registry.manifest(wanted)
        resolved = digest_of(found.body)
        if reference.digest and resolved != reference.digest:
            raise RuntimeFault(f"unexpected digest of manifest: got {resolved}, expected {reference.digest}")
        document = decode_manifest(found.body)
        kind = document.get("mediaType") or found.media_type
        digest = resolved
        if kind in (OCI_INDEX, DOCKER_LIST) or "manifests" in document:
            digest = choose_platform(items(document, "manifests"), reference).digest
            found = await registry.manifest(digest)
            if digest_of(found.body) != digest:
                raise RuntimeFault(f"unexpected digest of manifest: got {digest_of(found.body)}, expected {digest}")
            document = decode_manifest(found.body)
            kind = document.get("mediaType") or found.media_type
        if "config" not in document or kind not in (OCI_MANIFEST, DOCKER_MANIFEST, ""):
            raise RuntimeFault(f'media type "{kind}" of {reference} is not supported')
        await self._blocking(self._store.put_blob, found.body)
        return document, digest, resolved

    async def _fetch(
        self, registry: Registry, reference: Reference, manifest: Mapping[str, Any], digest: str, resolved: str
    ) -> Image:
        config = Descriptor.parse(mapping(manifest, "config"))
        blobs = [Descriptor.parse(layer) for layer in items(manifest, "layers")]
        async with _holding(self._store):
            # The manifest may have been collected between its arrival and now.
            document = await self._config(registry, config)
            diff_ids = ImageConfig.parse(document).diff_ids
            if len(diff_ids) != len(blobs):
                raise RuntimeFault(f"mismatched image rootfs and manifest layers: {len(diff_ids)} and {len(blobs)}")
            names = layer_names(diff_ids)
            await self._layers(registry, blobs, diff_ids, names)
            body = msgspec.json.encode(manifest)
            if digest_of(body) == digest:
                await self._blocking(self._store.put_blob, body)
            return await self._blocking(
                self._store.add,
                Image(
                    id=config.digest,
                    manifest=digest,
                    layers=names,
                    size=config.size + sum(blob.size for blob in blobs),
                    tags=(f"{reference.name}:{reference.tag}",) if reference.tag else (),
                    digests=(str(reference.with_digest(resolved)),),
                ),
            )

    async def _config(self, registry: Registry, wanted: Descriptor) -> dict[str, Any]:
        path = self._store.blob(wanted.digest)
        if path.exists():
            return decode_manifest(path.read_bytes())
        data = b""
        async with registry.blob(wanted.digest) as (pieces, _):
            async for piece in pieces:
                data += piece
                if len(data) > MAX_CONFIG:
                    raise RuntimeFault("image configuration is too large")
        if digest_of(data) != wanted.digest:
            raise RuntimeFault(f"unexpected commit digest {digest_of(data)}, expected {wanted.digest}")
        await self._blocking(self._store.put_blob, data)
        return decode_manifest(data)

    async def _layers(
        self, registry: Registry, blobs: Sequence[Descriptor], diff_ids: Sequence[str], names: Sequence[str]
    ) -> None:
        """Download what is missing side by side, unpack in order."""
        limit = asyncio.Semaphore(self._options.parallel_layers)
        downloads = [
            None
            if self._store.layer(name).exists()
            else asyncio.ensure_future(self._download(registry, blob, name, limit))
            for blob, name in zip(blobs, names, strict=True)
        ]
        try:
            for number, download in enumerate(downloads):
                if download is None:
                    continue
                path = await download
                lower = [self._store.layer(name) for name in reversed(names[:number])]
                if path is not None:
                    await self._blocking(self._unpack, path, names[number], diff_ids[number], lower)
        finally:
            pending = [download for download in downloads if download is not None]
            for download in pending:
                download.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _unpack(self, path: Path, name: str, diff_id: str, lower: Sequence[Path]) -> None:
        self._store.make_layer(name, lambda directory: layers.unpack(path, directory, lower=lower, diff_id=diff_id))
        path.unlink(missing_ok=True)

    async def _download(self, registry: Registry, blob: Descriptor, name: str, limit: asyncio.Semaphore) -> Path | None:
        """The verified archive of a layer; None when another node has made the layer meanwhile."""
        if not blob.size:
            # Without it nothing would say when a body that does not end has become too long.
            raise MalformedDocument(f"size of {blob.digest} is missing")
        path = self._store.root / "ingest" / blob.digest.partition(":")[2]
        lock = self._locks.setdefault(blob.digest, asyncio.Lock())
        async with limit, lock, self._exclusive(path):
            if self._store.layer(name).exists():
                return None
            if path.exists():
                return path
            partial = path.with_suffix(".partial")
            wait = FIRST_WAIT
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await self._receive(registry, blob, partial)
                    break
                except Unavailable as error:
                    if attempt == ATTEMPTS:
                        raise
                    log.info("the download of %s is taken up again: %s", blob.digest, error)
                    await asyncio.sleep(wait)
                    wait *= 2
                except (RuntimeFault, layers.LayerError):
                    partial.unlink(missing_ok=True)  # nothing that a later attempt could continue
                    raise
            await self._blocking(_commit, partial, path, blob.digest)
            return path

    async def _receive(self, registry: Registry, blob: Descriptor, partial: Path) -> None:
        """Download what is missing of the blob. Unavailable when it broke off and may be continued."""
        with partial.open("ab", buffering=0) as file:
            offset = file.tell()
            if offset >= blob.size:
                return
            layers.make_sure_it_fits(file.fileno(), blob.size - offset)
            async with registry.blob(blob.digest, offset=offset) as (pieces, continued):
                if not continued:
                    file.truncate(0)
                async for piece in pieces:
                    file.write(piece)
                    self._received(len(piece))
                    if file.tell() > blob.size:
                        raise RuntimeFault(f"blob {blob.digest} is larger than the {blob.size} bytes announced")
            if file.tell() < blob.size:
                raise Unavailable("failed to copy: unexpected EOF")

    @contextlib.asynccontextmanager
    async def _exclusive(self, path: Path) -> AsyncIterator[None]:
        """Against the other nodes of this machine."""
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await self._blocking(fcntl.flock, fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _most_telling(failures: Sequence[RuntimeFault]) -> RuntimeFault:
    """What a registry itself said tells more than that another could not be reached."""
    for weaker in (Unavailable, Unreachable):
        for error in failures:
            if not isinstance(error, weaker):
                return error
    return failures[-1]


@contextlib.asynccontextmanager
async def _holding(store: ImageStore) -> AsyncIterator[None]:
    with store.adding():
        yield


def base_urls(reference: Reference, options: RegistryOptions) -> list[str]:
    """Where to ask: the mirrors of the registry, then the registry itself.

    A registry on this machine's loopback, or listed as insecure, may speak plain HTTP.
    """
    host = reference.registry
    urls = list(options.mirrors.get(reference.domain, ()))
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if name in ("localhost", "127.0.0.1", "[::1]"):
        return [*urls, f"http://{host}", f"https://{host}"]
    urls.append(f"https://{host}")
    if host in options.insecure:
        urls.append(f"http://{host}")
    return urls


def decode_manifest(body: bytes) -> dict[str, Any]:
    """A JSON object; RuntimeFault for anything else."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RuntimeFault(f"cannot decode manifest: {error}") from error
    if not isinstance(document, dict):
        raise RuntimeFault("cannot decode manifest: not an object")
    return document


def choose_platform(manifests: Sequence[Mapping[str, Any]], reference: Reference) -> Descriptor:
    """The entry of an index for this machine; NotFound when there is none."""
    wanted = linux.architecture()
    fitting = []
    for entry in manifests:
        platform = mapping(entry, "platform")
        if platform.get("os", "linux") == "linux" and platform.get("architecture") == wanted:
            fitting.append((_variant_rank(wanted, str(platform.get("variant") or "")), entry))
    if not fitting:
        raise NotFound(f"{reference}: no match for platform linux/{wanted} in manifest: not found")
    return Descriptor.parse(min(fitting, key=lambda item: item[0])[1])


def _variant_rank(architecture: str, variant: str) -> int:
    """Plain entries first; of several ARM variants the newest, of several x86 levels the lowest."""
    if not variant or (architecture, variant) == ("arm64", "v8"):
        return 0
    number = int(variant[1:]) if variant[1:].isdigit() else 0
    return 100 - number if architecture.startswith("arm") else number


def _commit(partial: Path, path: Path, digest: str) -> None:
    """Give a verified download its name; a wrong one is deleted."""
    with partial.open("rb") as file:
        found = f"sha256:{hashlib.file_digest(file, hashlib.sha256).hexdigest()}"
    if found != digest:
        partial.unlink(missing_ok=True)
        raise RuntimeFault(
            f'failed commit on ref "layer-{digest}": unexpected commit digest {found}, '
            f"expected {digest}: failed precondition"
        )
    partial.rename(path)
