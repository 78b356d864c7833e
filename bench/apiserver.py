"""What the API server does on this machine: requests/s and latencies over TLS, with the store on disk.

    python bench/apiserver.py [--seconds 3] [--connections 32] [--objects 10000] [--watchers 1000] [--only NAME]

The server is a process of its own (`tiphys apiserver`, SQLite, client certificates, RBAC, all admission); the client is
this one. Each line is one measurement: rate, p50 and p99 latency, and the server's CPU time per request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import orjson
import uvloop

from tiphys.apiserver.pki import Pki

TICKS = os.sysconf("SC_CLK_TCK")
PODS = "/api/v1/namespaces/default/pods"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


class Server:
    """The server process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        pki = Pki(directory / "pki")
        serving = pki.server("apiserver", "kube-apiserver", ["127.0.0.1"])
        admin = pki.client("admin", "kubernetes-admin", ["system:masters"])
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from tiphys.cmd.main import main; sys.exit(main(sys.argv[1:]))",
                "apiserver",
                "--bind-address=127.0.0.1",
                "--secure-port=26443",
                f"--datastore=sqlite:{directory / 'state'}",
                f"--tls-cert-file={serving}.crt",
                f"--tls-private-key-file={serving}.key",
                f"--client-ca-file={directory / 'pki' / 'ca.crt'}",
                f"--service-account-signing-key-file={pki.service_account_key}",
                f"--cache-directory={directory / 'cache'}",
            ],
            stderr=(directory / "log").open("wb"),
        )
        self.tls = ssl.create_default_context(cafile=str(directory / "pki" / "ca.crt"))
        self.tls.load_cert_chain(f"{admin}.crt", f"{admin}.key")
        self.started = started

    def cpu(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """Proportional set size in MB."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Connection:
    """A keep-alive connection that does as little as a client can."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, server: Server) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", 26443, ssl=server.tls, limit=1 << 20))

    async def call(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """One request; (status, body)."""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: bench/1\r\nAccept: application/json\r\n"
        if body:
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        length = answer.index(b"Content-Length: ") + 16
        data = await self.reader.readexactly(int(answer[length : answer.index(b"\r", length)]))
        return int(answer[9:12]), data

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


def report(what: str, count: int, seconds: float, latencies: list[float], cpu: float) -> None:
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
    line = f"{what:<48}{count / seconds:>10,.0f}/s   p50 {p50:8.2f} ms   p99 {p99:8.2f} ms"
    print(f"{line}   server {cpu / max(count, 1) * 1e6:8.0f} µs CPU", flush=True)


Work = Callable[[Connection, int, int], Awaitable[None]]


@contextlib.asynccontextmanager
async def connections(server: Server, count: int) -> AsyncIterator[list[Connection]]:
    found = await asyncio.gather(*(Connection.open(server) for _ in range(count)))
    try:
        yield found
    finally:
        await asyncio.gather(*(one.close() for one in found))


async def measure(server: Server, what: str, clients: int, seconds: float, work: Work) -> None:
    """Let `clients` do `work(connection, client, count)` for some seconds."""
    latencies: list[float] = []

    async def client(connection: Connection, number: int) -> None:
        count = 0
        while (begun := time.perf_counter()) < end:
            await work(connection, number, count)
            latencies.append(time.perf_counter() - begun)
            count += 1

    async with connections(server, clients) as found:
        cpu, started = server.cpu(), time.perf_counter()
        end = started + seconds
        await asyncio.gather(*(client(one, number) for number, one in enumerate(found)))
        report(what, len(latencies), time.perf_counter() - started, latencies, server.cpu() - cpu)


def config_map(name: str, size: int = 1500) -> bytes:
    """A config map of about 2 kB as it is answered."""
    metadata = {"name": name, "labels": {"app": "bench", "group": name[-1]}}
    return orjson.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "x" * size}})


def pod(name: str) -> bytes:
    """A pod as a controller makes it; about 4 kB as it is answered."""
    container = {
        "name": "app",
        "image": "registry.example.com/team/app:1.2.3",
        "command": ["/bin/app", "--flag=value"],
        "env": [{"name": f"VARIABLE_{i}", "value": f"value-{i}"} for i in range(8)],
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}],
    }
    metadata = {"name": name, "labels": {"app": "bench", "pod-template-hash": "abc"}}
    spec = {"containers": [container], "volumes": [{"name": "config", "configMap": {"name": "app"}}]}
    return orjson.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


async def expect(answer: Awaitable[tuple[int, bytes]], *codes: int) -> bytes:
    status, body = await answer
    if status not in codes:
        raise SystemExit(f"unexpected answer {status}: {body[:300]!r}")
    return body


async def requests(server: Server, args: argparse.Namespace) -> None:
    """Creates, reads and updates of single objects."""

    async def create_config_map(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("POST", CONFIG_MAPS, config_map(f"c-{client}-{count}")), 201)

    async def create_pod(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("POST", PODS, pod(f"p-{client}-{count}")), 201)

    async def get(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("GET", f"{PODS}/p-{client}-0"), 200)

    async def update(connection: Connection, client: int, count: int) -> None:
        body = orjson.loads(config_map(f"c-{client}-0"))
        body["data"]["count"] = str(count)
        await expect(connection.call("PUT", f"{CONFIG_MAPS}/c-{client}-0", orjson.dumps(body)), 200)

    async def patch_status(connection: Connection, client: int, count: int) -> None:
        body = orjson.dumps({"status": {"message": f"m{count}"}})
        path = f"{PODS}/p-{client}-0/status"
        await expect(connection.call("PATCH", path, body, "application/strategic-merge-patch+json"), 200)

    clients, seconds = args.connections, args.seconds
    await measure(server, f"create config maps of 2 kB, {clients} connections", clients, seconds, create_config_map)
    await measure(server, f"create pods, {clients} connections", clients, seconds, create_pod)
    await measure(server, f"get a pod, {clients} connections", clients, seconds, get)
    await measure(server, f"update config maps, {clients} connections", clients, seconds, update)
    await measure(server, f"patch pod status, {clients} connections", clients, seconds, patch_status)
    await measure(server, "create pods, 1 connection", 1, seconds / 2, lambda c, n, i: create_pod(c, 1000 + n, i))
    await measure(server, "get a pod, 1 connection", 1, seconds / 2, get)


async def lists(server: Server, args: argparse.Namespace) -> None:
    """Lists of many pods."""
    base = "/api/v1/namespaces/lists/pods"
    async with connections(server, 16) as found:
        await expect(found[0].call("POST", "/api/v1/namespaces", b'{"metadata":{"name":"lists"}}'), 201)
        account = b'{"metadata":{"name":"default"}}'
        await expect(found[0].call("POST", "/api/v1/namespaces/lists/serviceaccounts", account), 201)

        async def fill(connection: Connection, numbers: range) -> None:
            for number in numbers:
                await expect(connection.call("POST", base, pod(f"l-{number:06d}")), 201)

        before = server.memory()
        await asyncio.gather(*(fill(one, range(i, args.objects, 16)) for i, one in enumerate(found)))
        grown = server.memory() - before
        print(f"{'memory of ' + str(args.objects) + ' pods':<48}{grown:>10,.0f} MB", flush=True)
    label = "labelSelector=app%3Dbench"

    async def whole(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("GET", base), 200)

    async def selected(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("GET", f"{base}?{label}"), 200)

    async def paged(connection: Connection, client: int, count: int) -> None:
        following = ""
        while True:
            body = await expect(connection.call("GET", f"{base}?limit=500{following}"), 200)
            token = orjson.loads(body)["metadata"].get("continue")
            if not token:
                return
            following = f"&continue={token}"

    await measure(server, f"list {args.objects} pods, whole", 1, args.seconds, whole)
    await measure(server, f"list {args.objects} pods, by a label all have", 1, args.seconds, selected)
    await measure(server, f"list {args.objects} pods, pages of 500 (decoded)", 1, args.seconds, paged)


async def watches(server: Server, args: argparse.Namespace) -> None:
    """Deliveries of events to many watchers, each event timed from the answer of its write to each delivery."""
    for watchers, rate in ((100, 200), (args.watchers, 20)):
        await fan_out(server, watchers, rate, args.seconds)


async def fan_out(server: Server, count: int, rate: int, seconds: float) -> None:
    path = "/api/v1/namespaces/watched/configmaps?watch=1&resourceVersion="
    sent: dict[bytes, float] = {}
    latencies: list[float] = []
    async with connections(server, 1) as (writer,), connections(server, count) as found:
        version = orjson.loads(await expect(writer.call("GET", CONFIG_MAPS + "?limit=1"), 200))
        start = version["metadata"]["resourceVersion"]
        for one in found:
            one.writer.write(f"GET {path}{start} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.gather(*(one.reader.readuntil(b"\r\n\r\n") for one in found))

        events, complete = int(rate * seconds), asyncio.Event()

        async def receive(connection: Connection) -> None:
            while line := await connection.reader.readline():
                at = line.find(b'"name":"w-')
                if at >= 0:
                    name = line[at + 8 : line.index(b'"', at + 8)]
                    latencies.append(time.perf_counter() - sent[name])
                    if len(latencies) == events * count:
                        complete.set()

        tasks = [asyncio.ensure_future(receive(one)) for one in found]
        cpu, started = server.cpu(), time.perf_counter()
        for number in range(events):
            name = f"w-{count}-{number}"
            sent[name.encode()] = time.perf_counter()
            await expect(writer.call("POST", "/api/v1/namespaces/watched/configmaps", config_map(name, 300)), 201, 404)
            await asyncio.sleep(max(0.0, started + (number + 1) / rate - time.perf_counter()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(complete.wait(), 20)
        spent = time.perf_counter() - started
        report(f"watch: {rate} events/s to {count} watchers", len(latencies), spent, latencies, server.cpu() - cpu)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ready(server: Server) -> None:
    while True:
        try:
            connection = await Connection.open(server)
            status, _ = await connection.call("GET", "/readyz")
            await connection.close()
            if status == 200:
                break
        except OSError:
            if server.process.poll() is not None:
                raise SystemExit((server.directory / "log").read_text()) from None
        await asyncio.sleep(0.01)
    print(f"{'process start to ready':<48}{time.perf_counter() - server.started:>10.2f} s", flush=True)
    print(f"{'memory, idle':<48}{server.memory():>10,.0f} MB", flush=True)
    async with connections(server, 1) as (one,):
        for path, body in (
            ("/api/v1/namespaces/default/serviceaccounts", b'{"metadata":{"name":"default"}}'),
            ("/api/v1/namespaces", b'{"metadata":{"name":"watched"}}'),
        ):
            await expect(one.call("POST", path, body), 201)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--watchers", type=int, default=1_000)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--only", choices=["requests", "lists", "watches"], action="append")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        server = Server(Path(directory))
        try:
            await ready(server)
            for name, run in (("requests", requests), ("lists", lists), ("watches", watches)):
                if not args.only or name in args.only:
                    await run(server, args)
            print(f"{'memory, in the end':<48}{server.memory():>10,.0f} MB", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    uvloop.run(main())
