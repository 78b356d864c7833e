"""A snapshot that etcd made (`etcdctl snapshot save`): what is in it, and what an embedded store makes of it.

    bucket key     revision 8 │ "_" │ position 8 │ ["t": deleted]  →  KeyValue     big-endian, so in order
    bucket lease   id 8                                            →  Lease
    bucket meta    finishedCompactRev                              →  revision 8 │ "_" │ position 8

After the file of bbolt stands its SHA-256. https://etcd.io/docs/v3.6/learning/data_model/
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from tiphys.api.etcd import rpc_pb2
from tiphys.store.errors import StoreCorruptError
from tiphys.store.etcd.bolt import BoltFile
from tiphys.store.etcd.wire import ROOT, Keys
from tiphys.store.interface import FIRST_REVISION, KeyValue
from tiphys.store.snapshot import Contents

HASH_BYTES: Final = 32
COMPACTED: Final = b"finishedCompactRev"
REVISION_BYTES: Final = 8
PLACE_BYTES: Final = 17  # of a revision with its position; one more marks a deletion


def is_whole(path: Path) -> bool:
    """Whether a file ends in the SHA-256 of what stands before, as etcd's snapshots do."""
    size = path.stat().st_size - HASH_BYTES
    if size <= 0:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, 1 << 20))):
            digest.update(piece)
            size -= len(piece)
        return digest.digest() == file.read(HASH_BYTES)


def read_backup(path: Path, *, prefix: str = ROOT, layout: Mapping[str, str] | None = None) -> Contents:
    """Everything in a snapshot of etcd, keys as a store has them here (`Keys`). Raises StoreCorruptError."""
    if not is_whole(path):
        raise StoreCorruptError(str(path), "it is no snapshot, or it is damaged")
    keys = Keys(prefix, layout)
    try:
        with BoltFile(path) as file:
            kept = [_version(keys, place, value) for place, value in file.bucket(b"key")]
            leases = dict(map(_lease, (value for _, value in file.bucket(b"lease"))))
            compacted = next((_revision(value) for name, value in file.bucket(b"meta") if name == COMPACTED), 0)
    except (DecodeError, ValueError) as error:
        raise StoreCorruptError(str(path), f"it is damaged ({error})") from None
    revision = max((kv.mod_revision for kv in kept), default=FIRST_REVISION)
    return Contents(max(revision, compacted), compacted, kept, leases)


def _version(keys: Keys, place: bytes, value: bytes) -> KeyValue:
    kv = rpc_pb2.KeyValue.FromString(value)
    if len(place) > PLACE_BYTES:
        return KeyValue(keys.here(kv.key), b"", 0, _revision(place), 0)
    return keys.key_value(kv)


def _revision(place: bytes) -> int:
    return int.from_bytes(place[:REVISION_BYTES], "big")


def _lease(value: bytes) -> tuple[int, int]:
    """(id, time to live as granted)."""
    lease = rpc_pb2.StoredLease.FromString(value)
    return lease.ID, lease.TTL
