"""The image store of a machine: content-addressed blobs, unpacked layers, and an index of images.

    index.json              images: id -> manifest digest, tags, digests, layers, size, pinned
    blobs/sha256/<hex>      manifests and configurations (compressed layers go once they are unpacked)
    ingest/                 downloads under way
    layers/<32 hex>/        an unpacked layer, named after its chain id: the overlayfs directory itself
    leases/<node>/<id>      names of the layers a container stands on
    lock, collect.lock      flock(2)

Several runtimes (the nodes of one machine) share it. `lock` guards the index and is held for moments;
`collect.lock` is held shared while content is made that the index does not name yet, and exclusively while
unnamed content is deleted. A layer appears by rename, so one that exists is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tiphys.base.log import get_logger
from tiphys.runtime.images.config import ImageConfig
from tiphys.runtime.images.reference import InvalidReference, Reference, parse
from tiphys.runtime.state import write_atomically

log = get_logger(__name__)

# A broken download can be taken up again for this long, in seconds.
PARTIAL_LIFE = 24 * 3600.0


class Image(msgspec.Struct, kw_only=True, frozen=True):
    """An image of the store. `id` is the digest of its configuration; `layers` are lowest first."""

    id: str
    manifest: str  # digest
    layers: tuple[str, ...]
    size: int  # bytes of the layers as they were transferred
    tags: tuple[str, ...] = ()  # docker.io/library/nginx:1.27
    digests: tuple[str, ...] = ()  # docker.io/library/nginx@sha256:…
    pinned: bool = False  # must not be garbage-collected: it cannot be pulled again


class _Index(msgspec.Struct):
    images: dict[str, Image] = {}


def digest_of(data: bytes) -> str:
    """`sha256:<hex>` of the data."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer_names(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """Directory names of the layers with these uncompressed digests, lowest first.

    A layer's name depends on those below it (its chain id): an archive may link to files of lower layers.
    Names are short because overlayfs takes them all in one page of mount options.
    """
    names = []
    chain = ""
    for diff_id in diff_ids:
        chain = digest_of(f"{chain} {diff_id}".encode()) if chain else diff_id
        names.append(chain.partition(":")[2][:32])
    return tuple(names)


class ImageStore:
    """Images shared by all users of the directory `root`. All methods block; all are safe to call from any thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("blobs/sha256", "ingest", "layers", "leases"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(_Index)
        self._cached: tuple[tuple[int, int, int], _Index] | None = None

    # ---- reading

    def images(self) -> list[Image]:
        """All images, in no order."""
        return list(self._read().images.values())

    def find(self, name: str) -> Image | None:
        """The image with this reference, id, or (12 or more digits of) an id; None when there is none."""
        images = self._read().images
        if name in images:
            return images[name]
        if f"sha256:{name}" in images:
            return images[f"sha256:{name}"]
        try:
            reference = parse(name)
        except InvalidReference:
            return None
        wanted_digest = str(reference.with_digest(reference.digest)) if reference.digest else ""
        for image in images.values():
            if wanted_digest in image.digests if wanted_digest else str(reference) in image.tags:
                return image
        if len(name) >= 12 and all(character in "0123456789abcdef" for character in name):
            matches = [image for image in images.values() if image.id.removeprefix("sha256:").startswith(name)]
            return matches[0] if len(matches) == 1 else None
        return None

    def config(self, image: Image) -> ImageConfig:
        """What the image says about its process. Raises OSError when the store has been damaged."""
        return ImageConfig.parse(msgspec.json.decode(self.blob(image.id).read_bytes()))

    def blob(self, digest: str) -> Path:
        """Where a blob is or would be."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or not value.isalnum():
            raise ValueError(f"unsupported digest {digest!r}")
        return self.root / "blobs" / algorithm / value

    def layer(self, name: str) -> Path:
        """Directory of an unpacked layer."""
        return self.root / "layers" / name

    # ---- writing

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """While inside, content that no image names yet is not collected."""
        with _flocked(self.root / "collect.lock", fcntl.LOCK_SH):
            yield

    def put_blob(self, data: bytes) -> str:
        """Keep the data and return its digest."""
        digest = digest_of(data)
        path = self.blob(digest)
        if not path.exists():
            write_atomically(path, data)
        return digest

    def make_layer(self, name: str, fill: Callable[[Path], object]) -> bool:
        """Make the layer `name` by letting `fill` write into an empty directory, unless it is there already.

        Two makers of one layer take turns, and the second finds it. True when this call made it.
        """
        target = self.layer(name)
        if target.exists():
            return False
        with _flocked(self.root / "ingest" / f"{name}.lock", fcntl.LOCK_EX):
            if target.exists():
                return False
            temporary = target.with_name(f".{name}.{secrets.token_hex(4)}")
            temporary.mkdir(mode=0o755)
            try:
                fill(temporary)
                os.rename(temporary, target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return True

    def add(self, image: Image) -> Image:
        """Enter the image. Its tags leave the images that had them; what it had already stays with it."""
        with self._changing() as index:
            before = index.images.get(image.id)
            if before is not None:
                image = msgspec.structs.replace(
                    image,
                    tags=tuple(dict.fromkeys((*before.tags, *image.tags))),
                    digests=tuple(dict.fromkeys((*before.digests, *image.digests))),
                    pinned=image.pinned or before.pinned,
                )
            for other in list(index.images.values()):
                if other.id != image.id and set(other.tags) & set(image.tags):
                    kept = tuple(tag for tag in other.tags if tag not in image.tags)
                    index.images[other.id] = msgspec.structs.replace(other, tags=kept)
            index.images[image.id] = image
        return image

    def tag(self, image_id: str, reference: Reference) -> None:
        """Give an image one more name. KeyError when it is gone."""
        image = self._read().images[image_id]
        self.add(msgspec.structs.replace(image, tags=(str(reference),)))

    def untag(self, reference: Reference) -> None:
        """Take a name from its image, and the image with its last name. Harmless when there is none."""
        with self._changing() as index:
            for image in list(index.images.values()):
                tags = tuple(tag for tag in image.tags if tag != str(reference))
                if tags == image.tags:
                    continue
                names = {parse(tag).name for tag in tags}
                digests = tuple(digest for digest in image.digests if digest.partition("@")[0] in names)
                if tags:
                    index.images[image.id] = msgspec.structs.replace(image, tags=tags, digests=digests)
                else:
                    del index.images[image.id]

    def remove(self, image_id: str) -> None:
        """Forget the image with all its names; layers that containers stand on stay until they go."""
        with self._changing() as index:
            index.images.pop(image_id, None)

    # ---- leases and collection

    def lease(self, node: str, owner: str, layers: Sequence[str]) -> None:
        """Keep these layers until `release`. Raises FileNotFoundError when one is not there (any more)."""
        directory = self.root / "leases" / node
        directory.mkdir(exist_ok=True)
        write_atomically(directory / owner, "\n".join(layers).encode())
        missing = [name for name in layers if not self.layer(name).exists()]
        if missing:
            self.release(node, owner)
            raise FileNotFoundError(f"layer {missing[0]} is not in the image store")

    def release(self, node: str, owner: str) -> None:
        """End a lease; harmless when there is none."""
        (self.root / "leases" / node / owner).unlink(missing_ok=True)

    def leases(self, node: str) -> list[str]:
        """Owners of the node's leases."""
        directory = self.root / "leases" / node
        return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []

    def collect(self) -> int:
        """Delete layers and blobs nothing names, and what broken additions left; the number of layers deleted.

        Does nothing while somebody adds: the next collection finds it.
        """
        try:
            lock = _flocked(self.root / "collect.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            with lock, self._changing() as index:
                doomed = self._condemn(index)
        except BlockingIOError:
            return 0
        for path in doomed:
            shutil.rmtree(path, ignore_errors=True)
        return len(doomed)

    def _condemn(self, index: _Index) -> list[Path]:
        """Rename what is to be deleted out of the way; the slow part is done without locks."""
        layers = {name for image in index.images.values() for name in image.layers}
        blobs = {digest for image in index.images.values() for digest in (image.id, image.manifest)}
        for lease in self.root.glob("leases/*/*"):
            with contextlib.suppress(OSError):
                layers |= set(lease.read_text().split("\n"))
        doomed = []
        for directory in (self.root / "layers").iterdir():
            if directory.name not in layers:
                grave = directory.with_name(f".deleted.{directory.name.lstrip('.')}.{secrets.token_hex(4)}")
                directory.rename(grave)
                doomed.append(grave)
        for blob in (self.root / "blobs" / "sha256").iterdir():
            if f"sha256:{blob.name}" not in blobs:
                blob.unlink(missing_ok=True)
        long_ago = time.time() - PARTIAL_LIFE
        for partial in (self.root / "ingest").iterdir():
            if partial.suffix == ".lock" or partial.stat().st_mtime < long_ago:
                partial.unlink(missing_ok=True)
        return doomed

    # ---- the index

    def _read(self) -> _Index:
        path = self.root / "index.json"
        try:
            found = path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._cached is None or self._cached[0] != stamp:
                self._cached = (stamp, self._decoder.decode(path.read_bytes()))
        except FileNotFoundError:
            return _Index()
        except msgspec.MsgspecError as error:
            # The index is replaced by rename, so this is a damaged disk: content can be pulled again.
            log.error("%s cannot be read and is begun anew: %s", path, error)
            return _Index()
        return self._cached[1]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Index]:
        with _flocked(self.root / "lock", fcntl.LOCK_EX):
            index = _Index(dict(self._read().images))
            before = dict(index.images)
            yield index
            if index.images != before:
                write_atomically(self.root / "index.json", self._encoder.encode(index))


@contextlib.contextmanager
def _flocked(path: Path, operation: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, operation)
        yield
    finally:
        os.close(fd)


def disk_usage(directory: Path) -> tuple[int, int]:
    """Bytes and inodes used by everything in a directory; hard links count once."""
    seen: set[tuple[int, int]] = set()
    used = 0
    stack: list[Any] = [directory]
    while stack:
        with contextlib.suppress(OSError), os.scandir(stack.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if (found.st_dev, found.st_ino) in seen:
                        continue
                    seen.add((found.st_dev, found.st_ino))
                    used += found.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
    return used, len(seen)
