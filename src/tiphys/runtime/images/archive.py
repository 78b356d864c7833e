"""Images from files: `docker save` archives, OCI layouts packed or as directories, each also gzip-compressed.

A docker archive has `manifest.json` (a list of configurations, tags and layers); an OCI layout has `index.json`,
which names manifests by digest. Newer Docker writes both: `manifest.json` is taken, because it has the full names.
https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import contextlib
import gzip
import posixpath
import secrets
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

import msgspec

from tiphys.runtime.errors import RuntimeFault
from tiphys.runtime.images import layers
from tiphys.runtime.images.assemble import CONFIG_TYPE, MANIFEST_TYPE
from tiphys.runtime.images.config import ImageConfig, MalformedDocument, items, mapping, texts
from tiphys.runtime.images.pull import Descriptor, choose_platform
from tiphys.runtime.images.reference import InvalidReference, Reference, parse
from tiphys.runtime.images.store import Image, ImageStore, digest_of, layer_names

MAX_DOCUMENT: Final = 8 << 20


class ArchiveError(Exception):
    """The file is no image archive, or a broken one."""


class _Files(Protocol):
    """Named files of an archive or a directory."""

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> IO[bytes]:
        """ArchiveError when there is no such file."""


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def has(self, name: str) -> bool:
        return self._path(name).is_file()

    def open(self, name: str) -> IO[bytes]:
        try:
            return self._path(name).open("rb")
        except OSError as error:
            raise ArchiveError(f"{name} is missing in {self._root}") from error

    def _path(self, name: str) -> Path:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise ArchiveError(f"{name!r} leads out of {self._root}")
        return path


class _Tar:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {posixpath.normpath(member.name): member for member in archive.getmembers()}

    def has(self, name: str) -> bool:
        return posixpath.normpath(name) in self._members

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(posixpath.normpath(name))
        for _ in range(8):  # docker save links layers that several images share
            if member is None or not (member.issym() or member.islnk()):
                break
            base = posixpath.dirname(member.name) if member.issym() else ""
            member = self._members.get(posixpath.normpath(posixpath.join(base, member.linkname)))
        file = self._archive.extractfile(member) if member is not None else None
        if file is None:
            raise ArchiveError(f"{name} is missing in the archive")
        return file


@contextlib.contextmanager
def _opened(path: Path, scratch: Path) -> Iterator[_Files]:
    if path.is_dir():
        yield _Directory(path)
        return
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == layers.GZIP_MAGIC
        if not packed:
            with tarfile.open(path, "r:") as archive:
                yield _Tar(archive)
            return
        # Members are read in any order, which a compressed file does not allow.
        plain = scratch / f"{secrets.token_hex(8)}.tar"
        try:
            with gzip.open(path) as source, plain.open("wb") as target:
                _copy(cast("IO[bytes]", source), target)
            with tarfile.open(plain, "r:") as archive:
                yield _Tar(archive)
        finally:
            plain.unlink(missing_ok=True)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, MalformedDocument, OverflowError) as error:
        raise ArchiveError(f"{path} is not an image archive: {error}") from error
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror or error}") from error


def _copy(source: IO[bytes], target: IO[bytes]) -> int:
    """Copy all of it, as long as there is room; the bytes written. Raises LayerError."""
    written = 0
    while data := source.read(layers.CHUNK):
        if not written % (64 * layers.CHUNK):
            layers.make_sure_it_fits(target.fileno(), len(data))
        target.write(data)
        written += len(data)
    return written


def import_archive(store: ImageStore, path: Path, *, names: Sequence[str] = ()) -> list[Image]:
    """Enter every image of the archive; `names` are given to it in addition (to one image only).

    Imported images are pinned against garbage collection. Raises ArchiveError, LayerError, InvalidReference.
    """
    extra = [parse(name) for name in names]
    with _opened(path, store.root / "ingest") as files, store.adding():
        if files.has("manifest.json"):
            found = _docker_images(files)
        elif files.has("index.json"):
            found = _oci_images(files)
        else:
            raise ArchiveError(f"{path} is not an image archive: neither manifest.json nor index.json is in it")
        if extra and len(found) > 1:
            raise ArchiveError(f"{path} holds {len(found)} images: a name can be given to one only")
        images = [_enter(store, files, image, extra) for image in found]
    if not images:
        raise ArchiveError(f"{path} holds no image for this machine")
    return images


class _Found(msgspec.Struct, kw_only=True):
    """An image in an archive: where its parts are."""

    config: str
    layers: list[str]
    names: list[Reference]
    manifest: bytes = b""  # as the archive has it; made where it has none
    digests: dict[str, str] = {}  # file to the digest it must have


def _docker_images(files: _Files) -> list[_Found]:
    return [
        _Found(
            config=str(entry.get("Config", "")),
            layers=list(texts(entry, "Layers")),
            names=[parse(name) for name in texts(entry, "RepoTags")],
        )
        for entry in items({"manifest.json": _document(files, "manifest.json", list)}, "manifest.json")
    ]


def _oci_images(files: _Files) -> list[_Found]:
    found = []
    for entry in items(_document(files, "index.json", dict), "manifests"):
        names = _names(mapping(entry, "annotations"))
        descriptor = Descriptor.parse(entry)
        document, body = _blob(files, descriptor.digest)
        if "manifests" in document:
            reference = names[0] if names else parse("archive")
            try:
                descriptor = choose_platform(items(document, "manifests"), reference)
            except RuntimeFault as error:
                raise ArchiveError(str(error)) from error
            document, body = _blob(files, descriptor.digest)
        if "config" not in document:
            raise ArchiveError(f"{descriptor.digest} in the archive is no image manifest")
        config = Descriptor.parse(mapping(document, "config"))
        blobs = [Descriptor.parse(layer) for layer in items(document, "layers")]
        found.append(
            _Found(
                config=_blob_name(config.digest),
                layers=[_blob_name(blob.digest) for blob in blobs],
                names=names,
                manifest=body,
                digests={_blob_name(blob.digest): blob.digest for blob in (config, *blobs)},
            )
        )
    return found


def _names(annotations: Mapping[str, Any]) -> list[Reference]:
    """Tools write the full name, or only the tag, into the standard annotation."""
    for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
        text = str(annotations.get(key, ""))
        if "/" in text or ":" in text:
            with contextlib.suppress(InvalidReference):
                return [parse(text)]
    return []


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _blob(files: _Files, digest: str) -> tuple[dict[str, Any], bytes]:
    with files.open(_blob_name(digest)) as file:
        body = file.read(MAX_DOCUMENT)
    if digest_of(body) != digest:
        raise ArchiveError(f"blob {digest} of the archive has the digest {digest_of(body)}")
    return _object(body, f"blob {digest} of the archive"), body


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArchiveError(f"{what} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ArchiveError(f"{what} has an unexpected form")
    return document


def _document(files: _Files, name: str, kind: type) -> Any:
    with files.open(name) as file:
        try:
            document = msgspec.json.decode(file.read(MAX_DOCUMENT))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ArchiveError(f"{name} of the archive cannot be read: {error}") from error
    if not isinstance(document, kind):
        raise ArchiveError(f"{name} of the archive has an unexpected form")
    return document


def _enter(store: ImageStore, files: _Files, found: _Found, extra: Sequence[Reference]) -> Image:
    with files.open(found.config) as file:
        config = file.read(MAX_DOCUMENT)
    expected = found.digests.get(found.config, "")
    if expected and digest_of(config) != expected:
        raise ArchiveError(f"{found.config} of the archive has the digest {digest_of(config)}")
    diff_ids = ImageConfig.parse(_object(config, f"{found.config} of the archive")).diff_ids
    if len(diff_ids) != len(found.layers):
        raise ArchiveError(f"the image has {len(found.layers)} layers but its configuration names {len(diff_ids)}")
    names = layer_names(diff_ids)
    size = len(config)
    for number, (layer, name) in enumerate(zip(found.layers, names, strict=True)):
        lower = [store.layer(below) for below in reversed(names[:number])]
        size += _add_layer(store, files, layer, name, diff_ids[number], lower)
    image_id = store.put_blob(config)
    manifest = found.manifest or _manifest(image_id, len(config), diff_ids)
    digest = store.put_blob(manifest)
    references = [*found.names, *extra]
    return store.add(
        Image(
            id=image_id,
            manifest=digest,
            layers=names,
            size=size,
            tags=tuple(f"{reference.name}:{reference.tag}" for reference in references if reference.tag),
            digests=tuple(dict.fromkeys(str(reference.with_digest(digest)) for reference in references)),
            pinned=True,
        )
    )


def _manifest(config: str, size: int, diff_ids: Sequence[str]) -> bytes:
    """A manifest for an archive without one: the same archive always gives the same digest."""
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config, "size": size},
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 0}
                for digest in diff_ids
            ],
        }
    )


def _add_layer(store: ImageStore, files: _Files, file: str, name: str, diff_id: str, lower: Sequence[Path]) -> int:
    """Unpack one layer where it is missing; the bytes it takes in the archive."""
    temporary = store.root / "ingest" / f"{name}.{secrets.token_hex(4)}"
    try:
        with files.open(file) as source, temporary.open("wb") as target:
            size = _copy(source, target)

        def fill(directory: Path) -> None:
            layers.unpack(temporary, directory, lower=lower, diff_id=diff_id)

        store.make_layer(name, fill)
        return size
    finally:
        temporary.unlink(missing_ok=True)
