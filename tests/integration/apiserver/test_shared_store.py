"""Two API servers over three etcd members; members and servers are killed and frozen while clients write.

    clients ──▶ server 0 ─┐      ┌─ member 0      every 1.5 s one of them dies or hangs, and comes back
            └─▶ server 1 ─┴──────┼─ member 1
    watchers on both             └─ member 2

Everything a client did and was told is recorded and judged (`histories.py`) against what etcd had. Short here; longer
by TIPHYS_TEST_ETCD_SECONDS.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import etcd
from tests.integration.apiserver.histories import Operation, Outcome, Version, violations
from tiphys.store import EventType, Store, open_store, prefix_end

SECONDS = float(os.environ.get("TIPHYS_TEST_ETCD_SECONDS", "15"))
CLIENTS = 8
KEYS = ("a", "b", "c", "d")
MAPS = "/api/v1/namespaces/default/configmaps"
PREFIX = "/registry/configmaps/default/"
BETWEEN_FAULTS = 1.5  # seconds
HEADERS = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
needs_etcd = pytest.mark.skipif(not etcd.programs(), reason=etcd.WHY_NOT)


class Server:
    """An API server in a process of its own."""

    def __init__(self, members: list[str], directory: Path, *flags: str) -> None:
        self.port = etcd.free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        tokens = directory / "tokens.csv"
        tokens.write_text('secret,admin,admin,"system:masters"\n')
        self._command = [sys.executable, "-m", "tiphys.cmd.main", "apiserver", f"--secure-port={self.port}"]
        self._command += [f"--etcd-servers={','.join(members)}", f"--token-auth-file={tokens}", *flags]
        self._log = directory / f"server-{self.port}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, session: aiohttp.ClientSession, patience: float = 60.0) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*self._command, stdout=log, stderr=log)
        async with asyncio.timeout(patience):
            while True:
                try:
                    async with session.get(self.url + "/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@asynccontextmanager
async def two_servers(members: list[str], directory: Path, *flags: str) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        servers = [Server(members, directory, *flags) for _ in range(2)]
        for server in servers:
            stack.push_async_callback(server.kill)
            await server.start(session)
        yield servers


class Recorder:
    """Clients, and what they were told."""

    def __init__(self, servers: list[Server], rng: random.Random) -> None:
        self.servers = servers
        self.rng = rng
        self.operations: list[Operation] = []
        self.count = 0
        self.ending = False

    async def client(self, session: aiohttp.ClientSession) -> None:
        known: dict[str, int] = {}
        while not self.ending:
            key = self.rng.choice(KEYS)
            match self.rng.randrange(5):
                case 0 | 1 if known.get(key):
                    await self.write(session, "PUT", key, known, expect=known[key])
                case 2:
                    await self.write(session, "PUT", key, known)
                case 3:
                    await self.write(session, "PATCH", key, known)
                case _:
                    await self.read(session, key, known)
            await asyncio.sleep(self.rng.uniform(0, 0.01))

    async def ask(
        self, session: aiohttp.ClientSession, method: str, path: str, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        """(status, answer); status 0: no answer."""
        headers = dict(HEADERS)
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        url = self.rng.choice(self.servers).url + path
        try:
            async with session.request(method, url, data=json.dumps(body) if body else None, headers=headers) as answer:
                return answer.status, json.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ValueError):
            await asyncio.sleep(0.05)
            return 0, {}

    async def write(
        self, session: aiohttp.ClientSession, method: str, key: str, known: dict[str, int], *, expect: int = 0
    ) -> None:
        self.count += 1
        value = f"v{self.count}"
        metadata: dict[str, Any] = {"name": key, "labels": {"k": key}} | (
            {"resourceVersion": str(expect)} if expect else {}
        )
        start = time.monotonic()
        status, answer = await self.ask(session, method, f"{MAPS}/{key}", {"metadata": metadata, "data": {"v": value}})
        outcome = Outcome.UNKNOWN
        if status == 200:
            outcome = Outcome.OK
            known[key] = int(answer["metadata"]["resourceVersion"])
        elif status == 409 and expect:
            outcome = Outcome.REFUSED
            known.pop(key)
        else:
            assert status in (0, 429, 500, 503, 504), answer
        self.operations.append(
            Operation(
                key=key,
                writes=True,
                value=value,
                start=start,
                end=time.monotonic(),
                outcome=outcome,
                revision=known[key] if outcome is Outcome.OK else 0,
                expect=expect,
            )
        )

    async def read(self, session: aiohttp.ClientSession, key: str, known: dict[str, int]) -> None:
        start = time.monotonic()
        if self.rng.random() < 0.5:
            status, found = await self.ask(session, "GET", f"{MAPS}/{key}")
            items = [found]
        else:
            status, found = await self.ask(session, "GET", MAPS + "?labelSelector=k")
            items = found.get("items", [])
        end = time.monotonic()
        if status != 200:
            assert status in (0, 429, 500, 503, 504), found
            return
        for item in items:
            name, revision = item["metadata"]["name"], int(item["metadata"]["resourceVersion"])
            known[name] = revision
            self.operations.append(
                Operation(
                    key=name,
                    writes=False,
                    value=item["data"]["v"],
                    start=start,
                    end=end,
                    outcome=Outcome.OK,
                    revision=revision,
                )
            )

    async def watch(self, session: aiohttp.ClientSession, which: int, revision: int) -> dict[str, list[Version]]:
        """Every version a watcher sees, going on at the other server whenever one ends it."""
        seen: dict[str, list[Version]] = {key: [] for key in KEYS}
        while not self.ending:
            which = 1 - which
            path = f"{MAPS}?watch=1&labelSelector=k&resourceVersion={revision}&timeoutSeconds=5"
            try:
                async with session.get(self.servers[which].url + path, headers=HEADERS) as answer:
                    async for line in answer.content:
                        event = json.loads(line)
                        assert event["type"] in ("ADDED", "MODIFIED"), event
                        metadata = event["object"]["metadata"]
                        revision = int(metadata["resourceVersion"])
                        seen[metadata["name"]].append(Version(revision, event["object"]["data"]["v"]))
            except (aiohttp.ClientError, TimeoutError, ValueError):
                await asyncio.sleep(0.1)
        return seen


async def follow(store: Store, revision: int, truth: dict[str, list[Version]]) -> None:
    """Collects what etcd has, version by version."""
    watcher = store.watch(PREFIX, prefix_end(PREFIX), from_revision=revision + 1)
    async for batch in watcher:
        for event in batch:
            assert event.type is EventType.PUT
            key = event.kv.key.removeprefix(PREFIX)
            if key in truth:
                truth[key].append(Version(event.kv.mod_revision, json.loads(event.kv.value)["data"]["v"]))


async def trouble(recorder: Recorder, cluster: etcd.EtcdCluster, until: float) -> dict[str, int]:
    """One fault after the other, each mended before the next; how many of each kind."""
    done: dict[str, int] = {}
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until:
            kind = recorder.rng.choice(["member killed", "member frozen", "server killed", "server frozen"])
            done[kind] = done.get(kind, 0) + 1
            if kind.startswith("member"):
                member = recorder.rng.choice(cluster.members)
                member.kill() if kind == "member killed" else member.freeze()
                await asyncio.sleep(BETWEEN_FAULTS)
                member.start() if kind == "member killed" else member.thaw()
            else:
                server = recorder.rng.choice(recorder.servers)
                if kind == "server killed":
                    await server.kill()
                    await server.start(session)
                else:
                    server.signal(signal.SIGSTOP)
                    await asyncio.sleep(BETWEEN_FAULTS)
                    server.signal(signal.SIGCONT)
            await asyncio.sleep(BETWEEN_FAULTS)
    return done


async def make_objects(recorder: Recorder, session: aiohttp.ClientSession) -> None:
    for key in KEYS:
        body = {"metadata": {"name": key, "labels": {"k": key}}, "data": {"v": "first"}}
        status, answer = await recorder.ask(session, "POST", MAPS, body)
        assert status == 201, answer


@needs_etcd
async def test_nothing_is_lost_stale_or_doubled_whatever_dies(tmp_path: Path) -> None:
    rng = random.Random(int(os.environ.get("TIPHYS_TEST_SEED", "1")))
    timeout = aiohttp.ClientTimeout(total=None, sock_read=8, connect=1)
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(etcd.EtcdCluster(tmp_path / "etcd", program=etcd.programs()[0], members=3))
        servers = await stack.enter_async_context(two_servers(cluster.urls, tmp_path, "--etcd-compaction-interval=20s"))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        recorder = Recorder(servers, rng)
        await make_objects(recorder, session)
        store = await open_store(",".join(cluster.urls))
        stack.push_async_callback(store.close)
        first = {kv.key.removeprefix(PREFIX): kv for kv in (await store.range(PREFIX, prefix_end(PREFIX))).items}
        began = await store.current_revision()
        truth = {key: [Version(first[key].mod_revision, "first")] for key in KEYS}
        following = asyncio.create_task(follow(store, began, truth))
        watchers = [asyncio.create_task(recorder.watch(session, which, began)) for which in (0, 1)]
        clients = [asyncio.create_task(recorder.client(session)) for _ in range(CLIENTS)]
        faults = await trouble(recorder, cluster, time.monotonic() + SECONDS)
        recorder.ending = True
        await asyncio.gather(*clients)
        cluster.wait_ready()
        last = await settled(recorder, session, store, truth)
        seen = await asyncio.gather(*watchers)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    found = [
        f"{key}: {one}"
        for key in KEYS
        for one in violations([op for op in recorder.operations if op.key == key], truth[key])
    ]
    report(recorder, faults, truth)
    assert found == []
    assert last == {key: (truth[key][-1].revision, len(truth[key])) for key in KEYS}
    for watcher in seen:
        for key in KEYS:  # a watcher that was stopped early has seen a beginning, and nothing but it
            assert watcher[key] == truth[key][1 : len(watcher[key]) + 1]
        assert sum(map(len, watcher.values())) > 0


async def settled(
    recorder: Recorder, session: aiohttp.ClientSession, store: Store, truth: dict[str, list[Version]]
) -> dict[str, tuple[int, int]]:
    """(revision, version) of each key at the end, the same from etcd and from both servers."""
    last = {}
    for key in KEYS:
        kv = await store.get(PREFIX + key)
        assert kv is not None
        last[key] = (kv.mod_revision, kv.version)
        await store.current_revision()  # its watchers are told by then; the one of this test runs in this loop
        for _ in range(100):
            await asyncio.sleep(0)
        for server in recorder.servers:
            async with session.get(f"{server.url}{MAPS}/{key}", headers=HEADERS) as answer:
                shown = await answer.json()
            assert int(shown["metadata"]["resourceVersion"]) == kv.mod_revision
    return last


def report(recorder: Recorder, faults: dict[str, int], truth: dict[str, list[Version]]) -> None:
    writes = [one for one in recorder.operations if one.writes]
    count = {outcome.value: sum(one.outcome is outcome for one in writes) for outcome in Outcome}
    reads = len(recorder.operations) - len(writes)
    versions = sum(map(len, truth.values()))
    print(f"\n{SECONDS:.0f} s, faults {faults}, writes {count}, reads {reads}, versions {versions}")


@needs_etcd
async def test_each_server_shows_at_once_what_the_other_has_written(tmp_path: Path) -> None:
    """Create, get, list, update, patch and delete, each at another server than the one before."""
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(etcd.EtcdCluster(tmp_path / "etcd", program=etcd.programs()[0], durable=False))
        servers = await stack.enter_async_context(two_servers(cluster.urls, tmp_path))
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=HEADERS, raise_for_status=True))
        for turn in range(40):
            one, other = servers[turn % 2].url, servers[1 - turn % 2].url
            space = f"/api/v1/namespaces/n{turn}"
            await session.post(one + "/api/v1/namespaces", json={"metadata": {"name": f"n{turn}"}})
            body = {"metadata": {"name": "a"}, "data": {"v": "1"}}
            made = await (await session.post(other + space + "/configmaps", json=body)).json()
            made["data"]["v"] = "2"
            changed = await (await session.put(one + space + "/configmaps/a", json=made)).json()
            listed = await (await session.get(other + space + "/configmaps")).json()
            assert [item["data"]["v"] for item in listed["items"]] == ["2"]
            merge = {"Content-Type": "application/merge-patch+json"}
            patch = json.dumps({"data": {"v": "1"}})
            await session.patch(one + space + "/configmaps/a", data=patch, headers=merge)
            # To a server that has not seen the last change yet this one changes nothing.
            patched = json.dumps({"data": {"v": "2"}})
            answer = await (await session.patch(other + space + "/configmaps/a", data=patched, headers=merge)).json()
            assert int(answer["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])
            await session.delete(one + space + "/configmaps/a")
            await session.post(other + space + "/configmaps", json=body)


@needs_etcd
async def test_two_servers_never_give_one_address_or_port_twice(tmp_path: Path) -> None:
    small = ("--service-cluster-ip-range=10.96.0.0/26", "--service-node-port-range=30000-30049")
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(etcd.EtcdCluster(tmp_path / "etcd", program=etcd.programs()[0], durable=False))
        servers = await stack.enter_async_context(two_servers(cluster.urls, tmp_path, *small))
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=HEADERS))

        async def make(number: int) -> dict[str, Any]:
            spec = {"type": "NodePort", "ports": [{"port": 80}], "selector": {"app": "x"}}
            body = {"metadata": {"name": f"s{number}"}, "spec": spec}
            url = servers[number % 2].url + "/api/v1/namespaces/default/services"
            async with session.post(url, json=body) as answer:
                made: dict[str, Any] = await answer.json()
                assert answer.status == 201, made
                return made

        made = await asyncio.gather(*(make(number) for number in range(45)))
    assert len({service["spec"]["clusterIP"] for service in made}) == 45
    assert len({service["spec"]["ports"][0]["nodePort"] for service in made}) == 45
