"""One layer of an image: a tar archive written out as a directory that overlayfs can use.

A layer says what it removes from those below with marker files, which become overlayfs' own marks:

    .wh.<name>      ->  a character device 0:0 called <name>
    .wh..wh..opq    ->  the attribute trusted.overlay.opaque=y on the directory

An archive may be hostile: every path is looked up inside the layer's directory (openat2, RESOLVE_IN_ROOT), never
through a link that leads out of it. https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

import zstandard
from isal import igzip
from isal.igzip_lib import IsalError

from tiphys.runtime import linux

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
CHUNK: Final = 1 << 20
MAX_LINKS: Final = 40  # followed in one path, as the kernel does
# A layer may not fill the disk to the brim: the machine's other users need this share of it.
LEAST_FREE: Final = 0.02
_XATTR: Final = "SCHILY.xattr."
# Marks of overlayfs itself are not an archive's to set.
_KEPT_XATTRS: Final = ("security.capability", "user.", "security.ima")

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


# isal's types declare its exception as a value.
_GzipError = cast("type[Exception]", IsalError)


class LayerError(Exception):
    """The archive is broken, hostile, or does not fit."""


class HashingReader:
    """Reads through to another stream and hashes what passes; tells the number of bytes too."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Read to the end: tar stops before its padding does."""
        while self.read(CHUNK):
            pass

    @property
    def digest(self) -> str:
        """Of everything read so far."""
        return f"sha256:{self._hash.hexdigest()}"


@contextlib.contextmanager
def decompressed(path: Path) -> Iterator[IO[bytes]]:
    """The archive in a file, whatever it is packed with; decided by its first bytes."""
    with path.open("rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        if magic.startswith(GZIP_MAGIC):
            # The library's types say nothing of it being a file.
            yield cast("IO[bytes]", cast(Any, igzip).IGzipFile(fileobj=raw, mode="rb"))
        elif magic == ZSTD_MAGIC:
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as unpacked:
                yield unpacked
        else:
            yield raw


def unpack(archive: Path, directory: Path, *, lower: Sequence[Path] = (), diff_id: str = "") -> str:
    """Write the layer in the file `archive` out to the empty `directory` and return its digest uncompressed.

    `lower` are the layers below, highest first, for hard links to files in them. Raises LayerError when the
    archive is broken or is not `diff_id`.
    """
    try:
        with decompressed(archive) as stream:
            reader = HashingReader(stream)
            extract(reader, directory, lower=lower)
            reader.drain()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, _GzipError, zstandard.ZstdError) as error:
        raise LayerError(f"failed to extract layer: {error}") from error
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        # Names the file system does not take, numbers beyond what it counts with, a tree too deep to walk.
        raise LayerError(f"failed to extract layer: {getattr(error, 'strerror', '') or error}") from error
    if diff_id and reader.digest != diff_id:
        raise LayerError(f"wrong diff id calculated on extraction: got {reader.digest}, expected {diff_id}")
    return reader.digest


def extract(stream: HashingReader | IO[bytes], directory: Path, *, lower: Sequence[Path] = ()) -> None:
    """Write the entries of an uncompressed tar stream out to `directory`."""
    with _Tree(directory, lower) as tree, tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
        for member in archive:
            tree.add(member, archive)


def make_sure_it_fits(fd: int, size: int) -> None:
    """Raises LayerError when `size` bytes more would leave too little room on the file system of `fd`."""
    space = os.fstatvfs(fd)
    if space.f_bavail * space.f_frsize - size < space.f_blocks * space.f_frsize * LEAST_FREE:
        raise LayerError("failed to extract layer: no space left on device")


class _Tree:
    """A directory being filled; owns a descriptor of its root and of the last entry's parent."""

    def __init__(self, directory: Path, lower: Sequence[Path]) -> None:
        self._directory = directory
        self._lower = lower
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parent: tuple[str, int] = ("", self._root)
        self._times: list[tuple[str, int]] = []
        self._written = 0

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                # Filling a directory changes its time, so these come last.
                for path, moment in reversed(self._times):
                    with contextlib.suppress(OSError):
                        fd = linux.open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
                        os.utime(fd, (moment, moment))
                        os.close(fd)
        finally:
            if self._parent[1] != self._root:
                os.close(self._parent[1])
            os.close(self._root)

    def add(self, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        """One entry of the archive."""
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise LayerError(f"failed to extract layer: entry {member.name!r} leads out of the root")
        if not parts:
            self._finish_directory(member, "")
            return
        path = "/".join(parts)
        parent, name = self._open_parent("/".join(parts[:-1])), parts[-1]
        if name == OPAQUE:
            os.setxattr(f"/proc/self/fd/{parent}", "trusted.overlay.opaque", b"y")
            return
        if name.startswith(WHITEOUT):
            hidden = name[len(WHITEOUT) :]
            if hidden in ("", ".", ".."):
                raise LayerError(f"failed to extract layer: invalid whiteout {member.name!r}")
            _clear(parent, hidden)
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            return
        self._make(member, archive, parent, name, path)

    def _make(self, member: tarfile.TarInfo, archive: tarfile.TarFile, parent: int, name: str, path: str) -> None:
        if member.isdir():
            existing = _lstat(parent, name)
            if existing is None or not stat.S_ISDIR(existing.st_mode):
                _clear(parent, name)
                os.mkdir(name, 0o755, dir_fd=parent)
            self._finish_directory(member, path)
            return
        if self._parent[0] == path or self._parent[0].startswith(path + "/"):
            self._forget_parent()
            parent = self._open_parent(path.rpartition("/")[0])
        _clear(parent, name)
        if member.isreg():
            self._write(member, archive, parent, name)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        elif member.islnk():
            self._link(member, parent, name)
        elif member.ischr() or member.isblk() or member.isfifo():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK if member.isblk() else stat.S_IFIFO
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, member.mode, dir_fd=parent)

    def _write(self, member: tarfile.TarInfo, archive: tarfile.TarFile, parent: int, name: str) -> None:
        make_sure_it_fits(self._root, member.size)
        source = archive.extractfile(member)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            while source is not None and (data := source.read(CHUNK)):
                self._make_sure_it_fits(len(data))
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)
            _set_xattrs(fd, member)
            os.utime(fd, (int(member.mtime), int(member.mtime)))
        finally:
            os.close(fd)

    def _make_sure_it_fits(self, size: int) -> None:
        before, self._written = self._written, self._written + size
        if before >> 26 != self._written >> 26:  # asked every 64 MiB
            make_sure_it_fits(self._root, 0)

    def _link(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        try:
            source = linux.open_in_root(self._root, member.linkname, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            self._copy_from_below(member, parent, name)
            return
        try:
            os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=parent, follow_symlinks=True)
        finally:
            os.close(source)

    def _copy_from_below(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        """A hard link to a file of a layer below: overlayfs would copy the file up too."""
        for layer in self._lower:
            base = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                source = linux.open_in_root(base, member.linkname, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            finally:
                os.close(base)
            with os.fdopen(source, "rb") as file:
                found = os.fstat(source)
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
                with os.fdopen(fd, "wb") as copy:
                    while data := file.read(CHUNK):
                        copy.write(data)
                    os.fchown(fd, found.st_uid, found.st_gid)
                    os.fchmod(fd, stat.S_IMODE(found.st_mode))
            return
        raise LayerError(f"failed to extract layer: hard link {member.name!r} to missing {member.linkname!r}")

    def _finish_directory(self, member: tarfile.TarInfo, path: str) -> None:
        fd = linux.open_in_root(self._root, path or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)
            _set_xattrs(fd, member)
        finally:
            os.close(fd)
        self._times.append((path or "/", int(member.mtime)))

    def _open_parent(self, path: str) -> int:
        if path == self._parent[0]:
            return self._parent[1]
        try:
            fd = linux.open_in_root(self._root, path or "/", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            fd = self._make_parents(path)
        except NotADirectoryError as error:
            raise LayerError(f"failed to extract layer: {path!r} is not a directory") from error
        self._forget_parent()
        self._parent = (path, fd)
        return fd

    def _forget_parent(self) -> None:
        if self._parent[1] != self._root:
            os.close(self._parent[1])
        self._parent = ("", self._root)

    def _make_parents(self, path: str, depth: int = 0) -> int:
        """Directories an archive did not list; the last one is returned open.

        A link among them may lead to a directory that only a lower layer has: it is made, inside the root.
        """
        if depth > MAX_LINKS:
            raise LayerError(f"failed to extract layer: too many links in {path!r}")
        made = os.dup(self._root)
        walked = ""
        try:
            for part in path.split("/"):
                walked = f"{walked}/{part}"
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=made)
                try:
                    child = linux.open_in_root(self._root, walked, os.O_RDONLY | os.O_DIRECTORY)
                except FileNotFoundError:
                    target = posixpath.join(posixpath.dirname(walked), os.readlink(part, dir_fd=made))
                    child = self._make_parents(posixpath.normpath(target).strip("/"), depth + 1)
                os.close(made)
                made = child
        except OSError as error:
            os.close(made)
            raise LayerError(f"failed to extract layer: {path!r} cannot be made: {error.strerror}") from error
        return made


def _lstat(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _clear(parent: int, name: str) -> None:
    """Remove what an earlier entry of the same archive made at this name."""
    found = _lstat(parent, name)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for child in os.listdir(fd):
            _clear(fd, child)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _set_xattrs(fd: int, member: tarfile.TarInfo) -> None:
    for key, value in member.pax_headers.items():
        name = key.removeprefix(_XATTR)
        if name != key and name.startswith(_KEPT_XATTRS):
            with contextlib.suppress(OSError):  # the file system may know no attributes
                os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))
