"""`tiphys etcd` on the state of a running server: snapshots, restoration, a full store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import etcd
from tests.integration.apiserver.server import CONFIG_MAPS, Api, Object, api_server, config_map
from tiphys.cmd.main import main
from tiphys.store import restore

MAPS = "/api/v1/namespaces/default/configmaps"


async def command(*words: object) -> int:
    """Run `tiphys etcd …` beside the server of this process."""
    return await asyncio.to_thread(main, ["etcd", *map(str, words)])


async def names(api: Api) -> list[str]:
    return [one["metadata"]["name"] for one in (await api.get(CONFIG_MAPS))["items"]]


async def test_a_snapshot_of_a_running_server_becomes_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, file = tmp_path / "state", tmp_path / "snapshot.db"
    async with api_server(state=str(state)) as api:
        await api.post(CONFIG_MAPS, config_map("before"))
        assert await command("snapshot", "save", file, "--data-dir", state) == 0
        await api.post(CONFIG_MAPS, config_map("after"))
        assert await command("snapshot", "save", file, "--data-dir", state) == 1  # never over another file
    assert file.stat().st_mode & 0o077 == 0
    capsys.readouterr()
    assert await command("snapshot", "status", file, "-w", "json") == 0
    assert json.loads(capsys.readouterr().out)["format"] == "tiphys"
    assert await command("snapshot", "restore", file, "--data-dir", tmp_path / "new") == 0
    async with api_server(state=str(tmp_path / "new")) as api:
        assert await names(api) == ["before"]


async def test_after_a_restoration_nobody_goes_on_from_what_is_gone(tmp_path: Path) -> None:
    """A watch from a revision that is newer than the snapshot is refused, so its client lists again."""
    state, file = tmp_path / "state", tmp_path / "snapshot.db"
    async with api_server(state=str(state)) as api:
        old = await api.post(CONFIG_MAPS, config_map("a"))
        await command("snapshot", "save", file, "--data-dir", state)
        new = await api.merge(f"{CONFIG_MAPS}/a", {"data": {"lost": "1"}})
        seen = (await api.get(CONFIG_MAPS))["metadata"]["resourceVersion"]
    await command("snapshot", "restore", file, "--data-dir", tmp_path / "new")
    async with api_server(state=str(tmp_path / "new")) as api:
        await api.post(CONFIG_MAPS, config_map("b"))  # would have had a revision that was seen
        for revision in (old["metadata"]["resourceVersion"], seen):
            (event,) = await api.events(f"{CONFIG_MAPS}?watch=1&resourceVersion={revision}", 5)
            assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        listed = await api.get(CONFIG_MAPS)
        assert int(listed["metadata"]["resourceVersion"]) > 1_000_000_000
        assert listed["items"][0]["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]
        stale = await api.put(f"{CONFIG_MAPS}/a", new)
        assert (stale["code"], stale["reason"]) == (409, "Conflict")
        assert (await api.put(f"{CONFIG_MAPS}/a", listed["items"][0]))["kind"] == "ConfigMap"


async def test_without_the_raise_changes_would_be_missed(tmp_path: Path) -> None:
    """Why the raise is the default: the same revision means two different states."""
    state, file = tmp_path / "state", tmp_path / "snapshot.db"
    async with api_server(state=str(state)) as api:
        await command("snapshot", "save", file, "--data-dir", state)
        await api.post(CONFIG_MAPS, config_map("lost"))
        seen = (await api.get(CONFIG_MAPS))["metadata"]["resourceVersion"]
    restore(file, tmp_path / "new")
    async with api_server(state=str(tmp_path / "new"), compaction_interval_seconds=0) as api:
        missed = await api.post(CONFIG_MAPS, config_map("missed"))
        assert int(missed["metadata"]["resourceVersion"]) <= int(seen)


FULL = "etcdserver: mvcc: database space exceeded"


async def fill(api: Api) -> tuple[list[str], Object]:
    """Write until that is refused: the names written, and the refusal."""
    written: list[str] = []
    while True:
        made = await api.post(CONFIG_MAPS, config_map(f"m{len(written)}", {"x": "x" * 400_000}))
        if made["kind"] == "Status":
            return written, made
        written.append(made["metadata"]["name"])


async def check_full(api: Api, written: list[str], refusal: Object) -> None:
    assert (refusal["code"], refusal["message"]) == (500, FULL)
    assert len(written) > 2
    small = await api.post(CONFIG_MAPS, config_map("small"))
    assert (small["code"], small["message"]) == (500, FULL)
    assert (await api.merge(f"{CONFIG_MAPS}/m0", {"data": {"y": "1"}}))["message"] == FULL
    there = await names(api)
    # etcd may apply the very write that it refuses first.
    assert set(written) <= set(there) <= {*written, f"m{len(written)}"}
    for name in set(there) - {"m0"}:
        assert (await api.delete(f"{CONFIG_MAPS}/{name}"))["status"] == "Success"


async def test_a_full_store_refuses_writes_until_the_alarm_is_lifted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with api_server(state=str(tmp_path), quota=4 << 20) as api:
        await check_full(api, *await fill(api))
        capsys.readouterr()
        await command("alarm", "list", "--data-dir", tmp_path)
        assert capsys.readouterr().out == f"memberID:{tmp_path} alarm:NOSPACE\n"
        await command("compact", "--data-dir", tmp_path)
        await command("defrag", "--data-dir", tmp_path)
        assert (await api.post(CONFIG_MAPS, config_map("small")))["message"] == FULL
        await command("alarm", "disarm", "--data-dir", tmp_path)
        assert (await api.post(CONFIG_MAPS, config_map("small")))["kind"] == "ConfigMap"
        assert await names(api) == ["m0", "small"]


@pytest.mark.skipif(not etcd.programs(), reason=etcd.WHY_NOT)
async def test_etcd_is_full_in_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with etcd.EtcdCluster(tmp_path, program=etcd.programs()[0], durable=False, quota=8 << 20) as cluster:
        there = f"--endpoints={cluster.urls[0]}"
        async with api_server(state=cluster.urls[0]) as api:
            await check_full(api, *await fill(api))
            for words in (("compact",), ("defrag",), ("alarm", "disarm")):
                assert await command(*words, there) == 0
            assert (await api.post(CONFIG_MAPS, config_map("small")))["kind"] == "ConfigMap"
        file = tmp_path / "snapshot.db"
        assert await command("snapshot", "save", file, there) == 0
        capsys.readouterr()
        assert await command("snapshot", "status", file, "-w", "json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["format"] == "etcd"
        assert told["revision"] >= told["compacted"] > 0
        # What etcd has saved becomes an embedded store.
        assert await command("snapshot", "restore", file, "--data-dir", tmp_path / "new") == 0
        async with api_server(state=str(tmp_path / "new")) as api:
            assert await names(api) == ["m0", "small"]
            assert (await api.merge(f"{CONFIG_MAPS}/m0", {"data": {"y": "1"}}))["data"]["y"] == "1"
        file.write_bytes(file.read_bytes()[:-100])
        assert await command("snapshot", "status", file) == 1
        assert await command("snapshot", "restore", file, "--data-dir", tmp_path / "newer") == 1


@contextlib.asynccontextmanager
async def server_process(state: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-m", "tiphys.cmd.main", "apiserver", f"--datastore=sqlite:{state}"]
    command += [f"--secure-port={port}", "--authorization-mode=AlwaysAllow", "--enable-admission-plugins="]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def create(session: aiohttp.ClientSession, name: str, written: list[str]) -> None:
    body: Any = {"metadata": {"name": name}, "data": {"x": "x" * 2_000}}
    async with session.post(MAPS, json=body) as answer:
        if answer.status == 201:
            written.append(name)


async def test_a_server_killed_while_a_snapshot_is_made(tmp_path: Path) -> None:
    """The snapshot is whole all the same, and has every write acknowledged before it began."""
    state, port = tmp_path / "state", etcd.free_ports(1)[0]
    before: list[str] = []
    async with server_process(state, port) as process, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get("/readyz") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.05)
        await asyncio.gather(*(create(session, f"m{number}", before) for number in range(300)))
        known = set(before)
        writing = asyncio.gather(
            *(create(session, f"n{number}", before) for number in range(300)), return_exceptions=True
        )
        saving = asyncio.create_task(command("snapshot", "save", tmp_path / "snapshot.db", "--data-dir", state))
        await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert await saving == 0
        await writing
    assert len(known) == 300
    for file, directory, wanted in (
        ("snapshot.db", "restored", known),
        ("later.db", "again", set(before)),  # of the store the killed server has left
    ):
        if not (tmp_path / file).exists():
            assert await command("snapshot", "save", tmp_path / file, "--data-dir", state) == 0
        assert await command("snapshot", "restore", tmp_path / file, "--data-dir", tmp_path / directory) == 0
        async with api_server(state=str(tmp_path / directory)) as api:
            found = {one["metadata"]["name"] for one in (await api.get(MAPS))["items"]}
        assert wanted <= found
