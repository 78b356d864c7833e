"""Snapshots that etcd has made: everything in them is found, whatever the tree of the file looks like."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests import etcd
from tiphys.cmd.etcd.members import Members
from tiphys.store import EtcdAccess, SQLiteStore, StoreCorruptError, open_store, restore
from tiphys.store.etcd.backup import read_backup
from tiphys.store.etcd.bolt import BoltFile, fnv1a
from tiphys.store.snapshot import write_snapshot

needs_etcd = pytest.mark.skipif(not etcd.programs(), reason=etcd.WHY_NOT)


@needs_etcd
@pytest.mark.parametrize("count", [3, 1500], ids=["one page", "several levels"])
async def test_everything_is_found(tmp_path: Path, count: int) -> None:
    with etcd.EtcdCluster(tmp_path, program=etcd.programs()[0], durable=False) as cluster:
        store = await open_store(cluster.urls[0])
        lease = (await store.grant_lease(600)).id
        for number in range(count):
            await store.create(f"/registry/{number:04}", b"x" * (number % 50), lease=lease if number == 1 else 0)
        await store.update("/registry/0000", b"y" * 9000, expect=2)  # longer than a page
        await store.compact(count)
        await store.delete("/registry/0002")
        expected = await store.range("", "\U0010ffff")
        older = await store.range("/", "0", revision=count + 1)
        Members(cluster.urls, EtcdAccess()).save(tmp_path / "etcd.db")
        await store.close()
    contents = read_backup(tmp_path / "etcd.db")
    assert (contents.revision, contents.compacted_revision) == (expected.revision, count)
    assert contents.leases == {lease: 600}
    write_snapshot(tmp_path / "ours.db", contents)
    restore(tmp_path / "ours.db", tmp_path / "restored")
    restored = await SQLiteStore.open(tmp_path / "restored")
    assert (await restored.range("", "\U0010ffff")).items == expected.items
    assert (await restored.range("/", "0", revision=count + 1)).items == older.items
    await restored.revoke_lease(lease)
    assert await restored.get("/registry/0001") is None
    await restored.close()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 9000])
def test_what_is_no_snapshot(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(StoreCorruptError):
        read_backup(file)
    file.write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(StoreCorruptError):
        read_backup(file)
    with pytest.raises(StoreCorruptError):
        BoltFile(file)


def test_fnv1a() -> None:
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"foobar") == 0x85944171F73967E8
