"""What the API server does on this machine: requests/s and latencies over TLS, with the store on disk.

    python -m bench.apiserver [--seconds 3] [--connections 32] [--objects 10000] [--watchers 1000] [--only NAME]
    python -m bench.apiserver --kubeconfig FILE --process PID [PID…]

The server is a process of its own (`tiphys apiserver`, SQLite, client certificates, RBAC, all admission); the client is
this one. Each line is one measurement: rate, p50 and p99 latency, and the server's CPU time per request. With
`--kubeconfig` the same load goes to a server that runs already, of any make and new; `--process` names the processes
whose CPU time and memory are counted. `--only growth` makes 1,000, 10,000 and 100,000 pods.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import orjson
import uvloop

from bench.apiserver_client import Api, Connection, Given, Server, Watching

PODS = "/api/v1/namespaces/default/pods"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
GROWTH = (1_000, 10_000, 100_000)


def report(what: str, count: int, seconds: float, latencies: list[float], cpu: float) -> None:
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
    line = f"{what:<48}{count / seconds:>10,.0f}/s   p50 {p50:8.2f} ms   p99 {p99:8.2f} ms"
    print(f"{line}   server {cpu / max(count, 1) * 1e6:8.0f} µs CPU", flush=True)


Work = Callable[[Connection, int, int], Awaitable[None]]


@contextlib.asynccontextmanager
async def connections(server: Api, count: int) -> AsyncIterator[list[Connection]]:
    found = await asyncio.gather(*(Connection.open(server) for _ in range(count)))
    try:
        yield found
    finally:
        await asyncio.gather(*(one.close() for one in found))


async def measure(server: Api, what: str, clients: int, seconds: float, work: Work) -> None:
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


async def requests(server: Api, args: argparse.Namespace) -> None:
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


async def lists(server: Api, args: argparse.Namespace) -> None:
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

    async def read(connection: Connection, client: int, count: int) -> None:
        following = b""
        while True:
            body = await expect(connection.call("GET", f"{base}?limit=500{following.decode()}"), 200)
            # The token stands before the items, which this client does not look at.
            _, found, rest = body[:2000].partition(b'"continue":"')
            if not found:
                return
            following = b"&continue=" + rest[: rest.index(b'"')]

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
    await measure(server, f"list {args.objects} pods, pages of 500", 1, args.seconds, read)
    await measure(server, f"list {args.objects} pods, pages of 500 (decoded)", 1, args.seconds, paged)


DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "crontabs.bench.example.com"},
    "spec": {
        "group": "bench.example.com",
        "scope": "Namespaced",
        "names": {"kind": "CronTab", "plural": "crontabs", "singular": "crontab"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "replicas": {"type": "integer"},
                                    "least": {"type": "integer"},
                                    "names": {
                                        "type": "array",
                                        "maxItems": 10,
                                        "items": {"type": "string", "maxLength": 63},
                                    },
                                },
                                "x-kubernetes-validations": [
                                    {"rule": "self.replicas >= self.least", "message": "too few"},
                                    {"rule": "self.names.all(n, n.startsWith('n-'))", "message": "a wrong name"},
                                ],
                            }
                        },
                    }
                },
            }
        ],
    },
}


async def customs(server: Api, args: argparse.Namespace) -> None:
    """Objects of a custom kind with two rules in CEL."""
    base = "/apis/bench.example.com/v1/namespaces/default/crontabs"
    async with connections(server, 1) as (one,):
        definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        await expect(one.call("POST", definitions, orjson.dumps(DEFINITION)), 201)
        for _ in range(200):
            if (await one.call("GET", base))[0] == 200:
                break
            await asyncio.sleep(0.05)

    def custom(name: str, number: int) -> bytes:
        spec = {"replicas": 3 + number, "least": 1, "names": ["n-one", "n-two", "n-three"]}
        head = {"apiVersion": "bench.example.com/v1", "kind": "CronTab"}
        return orjson.dumps({**head, "metadata": {"name": name}, "spec": spec})

    async def create(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("POST", base, custom(f"x-{client}-{count}", 0)), 201)

    async def change(connection: Connection, client: int, count: int) -> None:
        body, kind = orjson.dumps({"spec": {"replicas": 4 + count}}), "application/merge-patch+json"
        await expect(connection.call("PATCH", f"{base}/x-{client}-0", body, kind), 200)

    async def whole(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("GET", base + "?limit=1000"), 200)

    clients = args.connections
    await measure(server, f"create custom objects with CEL, {clients} connections", clients, args.seconds, create)
    await measure(server, f"patch custom objects with CEL, {clients} connections", clients, args.seconds, change)
    await measure(server, "list 1000 custom objects", 1, args.seconds / 2, whole)


async def growth(server: Api, args: argparse.Namespace) -> None:
    """The same questions with more and more pods."""
    base, made = "/api/v1/namespaces/growth/pods", 0
    async with connections(server, 1) as (one,):
        await expect(one.call("POST", "/api/v1/namespaces", b'{"metadata":{"name":"growth"}}'), 201)
        account = b'{"metadata":{"name":"default"}}'
        await expect(one.call("POST", "/api/v1/namespaces/growth/serviceaccounts", account), 201, 409)
    begun = server.memory()

    async def get(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("GET", f"{base}/g-{(client * 7919 + count) % made:06d}"), 200)

    async def patch(connection: Connection, client: int, count: int) -> None:
        path, body = f"{base}/g-{(client * 31) % made:06d}/status", orjson.dumps({"status": {"message": f"m{count}"}})
        await expect(connection.call("PATCH", path, body, "application/strategic-merge-patch+json"), 200)

    async def page(connection: Connection, client: int, count: int) -> None:
        await expect(connection.call("GET", f"{base}?limit=500"), 200)

    for size in GROWTH:
        numbers = iter(range(made, size))

        async def fill(connection: Connection, numbers: Iterator[int] = numbers) -> None:
            for number in numbers:
                await expect(connection.call("POST", base, pod(f"g-{number:06d}")), 201)

        cpu, started = server.cpu(), time.perf_counter()
        async with connections(server, args.connections) as found:
            await asyncio.gather(*(fill(one) for one in found))
        spent, count = time.perf_counter() - started, size - made
        made = size
        rate, each = count / spent, (server.cpu() - cpu) / count * 1e6
        print(f"{f'{size} pods: create':<48}{rate:>10,.0f}/s   server {each:8.0f} µs CPU", flush=True)
        print(f"{f'{size} pods: memory':<48}{server.memory() - begun:>10,.0f} MB", flush=True)
        await measure(server, f"{size} pods: get one", args.connections, args.seconds, get)
        await measure(server, f"{size} pods: patch a status", args.connections, args.seconds, patch)
        await measure(server, f"{size} pods: a page of 500", 1, args.seconds / 2, page)


async def watches(server: Api, args: argparse.Namespace) -> None:
    """Deliveries of events to many watchers, each event timed from the answer of its write to each delivery."""
    for watchers, rate in ((100, 200), (args.watchers, 20)):
        await fan_out(server, watchers, rate, args.seconds)


async def fan_out(server: Api, count: int, rate: int, seconds: float) -> None:
    path = "/api/v1/namespaces/watched/configmaps?watch=1&resourceVersion="
    sent: dict[bytes, float] = {}
    latencies: list[float] = []
    events, complete = int(rate * seconds), asyncio.Event()

    def seen(name: bytes) -> None:
        latencies.append(time.perf_counter() - sent[name])
        if len(latencies) == events * count:
            complete.set()

    async with connections(server, 1) as (writer,):
        version = orjson.loads(await expect(writer.call("GET", CONFIG_MAPS + "?limit=1"), 200))
        start = version["metadata"]["resourceVersion"]
        watching = await asyncio.gather(*(Watching.open(server, path + start, b"w-", seen) for _ in range(count)))
        cpu, started = server.cpu(), time.perf_counter()
        for number in range(events):
            name = f"w-{count}-{rate}-{number}"
            sent[name.encode()] = time.perf_counter()
            await expect(writer.call("POST", "/api/v1/namespaces/watched/configmaps", config_map(name, 300)), 201, 404)
            await asyncio.sleep(max(0.0, started + (number + 1) / rate - time.perf_counter()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(complete.wait(), 20)
        spent = time.perf_counter() - started
        report(f"watch: {rate} events/s to {count} watchers", len(latencies), spent, latencies, server.cpu() - cpu)
        for one in watching:
            one.close()


async def ready(server: Api) -> None:
    await server.ready()
    async with connections(server, 1) as (one,):
        for path, body in (
            ("/api/v1/namespaces/default/serviceaccounts", b'{"metadata":{"name":"default"}}'),
            ("/api/v1/namespaces", b'{"metadata":{"name":"watched"}}'),
        ):
            await expect(one.call("POST", path, body), 201, 409)


PARTS = {"requests": requests, "lists": lists, "customs": customs, "watches": watches, "growth": growth}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--watchers", type=int, default=1_000)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--kubeconfig", type=Path, help="measure the server it names instead of one of ours")
    parser.add_argument("--process", type=int, nargs="*", default=[], help="that server's processes")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="default: all but growth")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        server = Given(args.kubeconfig, args.process) if args.kubeconfig else Server(Path(directory))
        try:
            await ready(server)
            for name in args.only or [name for name in PARTS if name != "growth"]:
                await PARTS[name](server, args)
            print(f"{'memory, in the end':<48}{server.memory():>10,.0f} MB", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    uvloop.run(main())
