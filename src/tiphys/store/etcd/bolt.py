"""Reading a file of bbolt, the B+ tree etcd keeps its state in. https://pkg.go.dev/go.etcd.io/bbolt

    page      id 8 │ flags 2 │ count 2 │ overflow 4 │ elements …          pages follow each other, little-endian
    meta      magic 4 │ version 4 │ page size 4 │ flags 4 │ root bucket 16 │ freelist 8 │ pages 8 │ number 8 │ sum 8
    branch    position 4 │ key size 4 │ page 8                            the position counts from the element itself
    leaf      flags 4 │ position 4 │ key size 4 │ value size 4            flag 1: the value is a bucket
    bucket    root page 8 │ sequence 8 │ (root page 0: the page itself)

Pages 0 and 1 are metas; the one with the higher number (of the transaction) counts, unless its sum (FNV-1a) is wrong.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from tiphys.store.errors import StoreCorruptError

MAGIC: Final = 0xED0CDAED
VERSION: Final = 2
PAGE: Final = struct.Struct("<QHHI")
META: Final = struct.Struct("<IIIIQQQQQ")
SUM: Final = struct.Struct("<Q")
ELEMENT: Final = struct.Struct("<IIII")
BRANCH: Final = struct.Struct("<IIQ")
BUCKET: Final = struct.Struct("<QQ")
BRANCH_PAGE: Final = 0x01
LEAF_PAGE: Final = 0x02
LEVELS: Final = 64  # more than any tree has


class BoltFile:
    """An open file; a context manager. Raises StoreCorruptError for one that is none, or is damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            try:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise self._damaged() from None
        self._page_size, self._root = self._meta()

    def _meta(self) -> tuple[int, int]:
        """(page size, page of the root bucket)."""
        found = []
        for start in (0, *(size for size in (1 << shift for shift in range(10, 17)))):
            at = start + PAGE.size
            if at + META.size + SUM.size > len(self._data):
                break
            meta = META.unpack_from(self._data, at)
            (total,) = SUM.unpack_from(self._data, at + META.size)
            if meta[:2] == (MAGIC, VERSION) and total == fnv1a(self._data[at : at + META.size]):
                found.append((meta[8], meta[2], meta[4]))
        if not found:
            raise self._damaged()
        _, page_size, root = max(found)
        return page_size, root

    def bucket(self, name: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a bucket below the root, in order; nothing when there is no such bucket."""
        try:
            for key, value in self._walk(self._root * self._page_size, 0):
                if key == name:
                    root, _ = BUCKET.unpack_from(value)
                    if root:
                        yield from self._walk(root * self._page_size, 0)
                    else:
                        yield from _leaf(value, BUCKET.size)
        except (struct.error, IndexError):
            raise self._damaged() from None

    def _walk(self, start: int, level: int) -> Iterator[tuple[bytes, bytes]]:
        _, flags, count, _ = PAGE.unpack_from(self._data, start)
        if flags & LEAF_PAGE:
            yield from _leaf(self._data, start)
            return
        if not flags & BRANCH_PAGE or level > LEVELS:
            raise self._damaged()
        for index in range(count):
            _, _, page = BRANCH.unpack_from(self._data, start + PAGE.size + index * BRANCH.size)
            yield from self._walk(page * self._page_size, level + 1)

    def _damaged(self) -> StoreCorruptError:
        return StoreCorruptError(str(self._path), "it is no whole snapshot of etcd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()


def _leaf(data: mmap.mmap | bytes, start: int) -> Iterator[tuple[bytes, bytes]]:
    _, _, count, _ = PAGE.unpack_from(data, start)
    for index in range(count):
        at = start + PAGE.size + index * ELEMENT.size
        _, position, key_size, value_size = ELEMENT.unpack_from(data, at)
        key_at = at + position
        value_at = key_at + key_size
        if value_at + value_size > len(data):
            raise IndexError(value_at)
        yield bytes(data[key_at:value_at]), bytes(data[value_at : value_at + value_size])


def fnv1a(data: bytes) -> int:
    """The 64-bit FNV-1a hash. https://datatracker.ietf.org/doc/html/draft-eastlake-fnv"""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
