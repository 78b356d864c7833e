"""Upkeep of a store that another process has open, and the alarm of one without space."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from tiphys.store import NOSPACE, Alarm, NoSpaceError, SQLiteStore, StoreError, open_store
from tiphys.store.sqlite.maintenance import SOCKET, ask, do


async def test_upkeep_from_another_process(tmp_path: Path) -> None:
    """The directory's path is longer than a socket's may be."""
    directory = tmp_path / ("d" * 100)
    store = await open_store(directory)
    try:
        for name in "abc":
            await store.create(f"/{name}", b"1")
        told = await asyncio.to_thread(ask, directory, "compact", 3)
        assert told is not None
        assert (told["revision"], told["compacted_revision"], told["alarms"]) == (4, 3, [])
        assert await store.compacted_revision() == 3
        newest = await asyncio.to_thread(ask, directory, "compact")
        assert newest is not None
        assert newest["compacted_revision"] == 4
        with pytest.raises(StoreError, match="required revision has been compacted"):
            await asyncio.to_thread(ask, directory, "compact", 2)
        with pytest.raises(StoreError, match="nothing a store does"):
            await asyncio.to_thread(ask, directory, "nonsense")
        assert await asyncio.to_thread(ask, directory, "defragment") is not None
        mode = (directory / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    finally:
        await store.close()
    assert ask(directory, "status") is None
    assert not (directory / SOCKET).exists()


@pytest.mark.parametrize(
    "words", [b"", b"\n", b"[]\n", b"{}\n", b"\xff\n", b'{"do": 1, "revision": "x"}\n', b"x" * 200_000]
)
async def test_nonsense_is_answered_and_does_no_harm(tmp_path: Path, words: bytes) -> None:
    store = await open_store(tmp_path)
    try:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
            reader, writer = await asyncio.open_unix_connection(sock=connection.dup())
            writer.write(words)
            writer.write_eof()
            try:
                answer = await reader.read()
            except ConnectionError:
                answer = b""
            writer.close()
        os.close(descriptor)
        assert answer == b"" or answer.startswith(b'{"error":')
        assert (await asyncio.to_thread(ask, tmp_path, "status")) is not None
    finally:
        await store.close()


async def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / SOCKET).touch()
    store = await open_store(tmp_path)
    assert await asyncio.to_thread(ask, tmp_path, "status") is not None
    await store.close()


async def test_the_alarm_outlives_a_restart(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path, quota=1 << 20)
    with pytest.raises(NoSpaceError):
        await store.create("/large", b"x" * (2 << 20))
    await store.close()
    store = await SQLiteStore.open(tmp_path)
    assert await store.alarms() == [Alarm(1, NOSPACE)]
    with pytest.raises(NoSpaceError):
        await store.create("/a", b"1")
    assert (await do(store, "disarm"))["alarms"] == []
    await store.create("/a", b"1")
    await store.close()


async def test_a_write_that_has_no_room_raises_the_alarm_again(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path, quota=1 << 20)
    for _ in range(2):
        with pytest.raises(NoSpaceError):
            await store.create("/large", b"x" * (2 << 20))
        assert await store.alarms() == [Alarm(1, NOSPACE)]
        await store.disarm()
    await store.close()


async def test_writers_beside_the_one_without_room_are_answered(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path, quota=1 << 20)
    await store.create("/old", b"1")
    results = await asyncio.gather(
        store.create("/a", b"1"),
        store.create("/large", b"x" * (2 << 20)),
        store.create("/b", b"1"),
        store.delete("/old"),
        return_exceptions=True,
    )
    assert [isinstance(result, NoSpaceError) for result in results] == [False, True, True, False]
    assert {kv.key for kv in (await store.range("/", "0")).items} == {"/a"}
    await store.close()
