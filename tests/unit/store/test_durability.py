"""What survives: kill -9, a restart, a full disk, damaged files."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.store.conftest import ENGINES, open_engine
from tiphys.base.clock import FakeClock
from tiphys.store import (
    NoSpaceError,
    SQLiteStore,
    StoreCorruptError,
    StoreLockedError,
    StoreOpenError,
    open_store,
    restore,
)

WRITER = Path(__file__).with_name("writer.py")


def write_until_killed(directory: Path, after: int) -> dict[str, int]:
    """Run the writer, kill it after that many acknowledgements; all it acknowledged until it died."""
    with subprocess.Popen([sys.executable, WRITER, directory], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            lines = [child.stdout.readline() for _ in range(after)]
        finally:
            child.kill()
        lines += child.stdout.readlines()
    whole = [line.split() for line in lines if line.endswith(b"\n")]
    return {key.decode(): int(revision) for key, revision in whole}


@pytest.mark.parametrize("round_", range(4))
async def test_kill_9_loses_nothing_acknowledged(tmp_path: Path, round_: int) -> None:
    """A child writes from 16 tasks and prints each acknowledged `key revision`, until it is killed."""
    randomness = random.Random(round_)
    acknowledged: dict[str, int] = {}
    last = 1
    for _ in range(3):  # each time over the state the last kill left
        acknowledged |= write_until_killed(tmp_path, randomness.randrange(50, 1500))
        store = await SQLiteStore.open(tmp_path)
        found = {kv.key: kv.mod_revision for kv in (await store.range("/", "0")).items}
        assert {key: found.get(key) for key in acknowledged} == acknowledged
        watcher = store.watch("/", "0", from_revision=2)
        revisions: list[int] = []
        while watcher.revision < await store.current_revision():
            revisions += [event.kv.mod_revision for event in await anext(aiter(watcher))]
        assert revisions == list(range(2, len(revisions) + 2))
        assert await store.current_revision() >= last
        last = await store.current_revision()
        await store.close()


async def test_a_restart_keeps_everything(tmp_path: Path, clock: FakeClock) -> None:
    store = await SQLiteStore.open(tmp_path, clock=clock)
    lease = await store.grant_lease(10)
    await store.create("/a", b"1", lease=lease.id)
    await store.create("/b", b"1")
    await store.delete("/b")
    await store.compact(3)
    before = await store.range("/", "0")
    await store.close()
    store = await SQLiteStore.open(tmp_path, clock=clock)
    assert await store.range("/", "0") == before
    assert (await store.current_revision(), await store.compacted_revision()) == (4, 3)
    assert (await store.keep_alive(lease.id)).ttl == 10
    assert (await store.grant_lease(10)).id > lease.id
    await store.close()


@pytest.mark.parametrize("engine", ENGINES)
async def test_snapshot_and_restore(tmp_path: Path, engine: str) -> None:
    store = await open_engine(engine, tmp_path / "state")
    lease = await store.grant_lease(60)
    await store.create("/a", b"1", lease=lease.id)
    await store.txn([], [])
    await store.update("/a", b"2", expect=2, lease=lease.id)
    await store.create("/b", b"1")
    await store.delete("/b")
    await store.compact(3)
    await store.snapshot(tmp_path / "snapshot.db")
    with pytest.raises(FileExistsError):
        await store.snapshot(tmp_path / "snapshot.db")
    before = await store.range("/", "0")
    await store.create("/later", b"1")
    await store.close()

    restore(tmp_path / "snapshot.db", tmp_path / "restored")
    with pytest.raises(StoreOpenError, match="already holds a store"):
        restore(tmp_path / "snapshot.db", tmp_path / "restored")
    restored = await SQLiteStore.open(tmp_path / "restored")
    assert await restored.range("/", "0") == before
    assert [kv.value for kv in (await restored.range("/", "0", revision=4)).items] == [b"2", b"1"]
    assert await restored.compacted_revision() == 3
    await restored.revoke_lease(lease.id)
    assert (await restored.range("/", "0")).count == 0
    await restored.close()


async def test_restore_can_raise_the_revision(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path / "state")
    await store.create("/a", b"1")
    await store.snapshot(tmp_path / "snapshot.db")
    await store.close()
    restore(tmp_path / "snapshot.db", tmp_path / "restored", bump_revision=1000)
    restored = await SQLiteStore.open(tmp_path / "restored")
    assert (await restored.current_revision(), await restored.compacted_revision()) == (1002, 1002)
    assert await restored.create("/b", b"1") == 1003
    assert (await restored.range("/", "0")).count == 2
    await restored.close()


async def test_a_directory_is_opened_once(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    with pytest.raises(StoreLockedError, match="another process has it open"):
        await SQLiteStore.open(tmp_path)
    await store.close()
    store = await SQLiteStore.open(tmp_path)
    await store.close()


def overwrite_header(path: Path) -> None:
    path.write_bytes(b"this is not a database at all" * 300)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 4] = os.urandom(4096 * 2)
    path.write_bytes(bytes(data))


def foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("damage", [overwrite_header, cut, scribble, foreign, newer])
async def test_damage_is_one_clear_error(tmp_path: Path, damage: object) -> None:
    store = await SQLiteStore.open(tmp_path)
    await asyncio.gather(*(store.create(f"/{i}", b"x" * 3000) for i in range(50)))
    await store.close()
    assert callable(damage)
    damage(tmp_path / "state.db")
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(StoreCorruptError) as caught:
        await SQLiteStore.open(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "state.db").read_bytes() == before


async def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreOpenError, match=r"cannot open the store in .*: "):
        await SQLiteStore.open(tmp_path / "file")
    with pytest.raises(StoreOpenError):
        await SQLiteStore.open("/proc/no/such/place")


async def test_open_store(tmp_path: Path) -> None:
    for where in ("memory", tmp_path / "a", f"sqlite:{tmp_path}/b"):
        store = await open_store(where)
        assert await store.create("/a", b"1") == 2
        await store.close()
    assert (tmp_path / "a" / "state.db").exists()
    assert (tmp_path / "b" / "state.db").exists()
    with pytest.raises(ValueError, match="no store engine"):
        await open_store("redis://localhost")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tiphys-test", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
async def test_a_full_disk_loses_nothing_acknowledged(small_disk: Path) -> None:
    store = await SQLiteStore.open(small_disk)
    acknowledged: list[str] = []
    refused = 0

    async def write(writer: int) -> None:
        nonlocal refused
        for i in range(200):
            try:
                await store.create(f"/{writer}/{i}", b"x" * 10_000)
                acknowledged.append(f"/{writer}/{i}")
            except NoSpaceError:
                refused += 1

    await asyncio.gather(*(write(i) for i in range(8)))
    assert refused
    assert acknowledged
    found = [kv.key for kv in (await store.range("/", "0", keys_only=True)).items]
    assert found == sorted(acknowledged)
    await store.close()
    store = await SQLiteStore.open(small_disk)
    found = [kv.key for kv in (await store.range("/", "0", keys_only=True)).items]
    assert found == sorted(acknowledged)
    await store.close()


async def test_a_value_of_a_wrong_type_harms_only_its_writer(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    results = await asyncio.gather(
        store.create("/a", b"1"),
        store.create("/b\ud800", b"1"),  # no UTF-8 for a lone surrogate
        store.create("/c", b"1"),
        return_exceptions=True,
    )
    assert isinstance(results[1], UnicodeEncodeError)
    assert (results[0], results[2], await store.current_revision()) == (2, 3, 3)
    await store.close()
