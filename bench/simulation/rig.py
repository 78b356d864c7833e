"""What every phase works with: clients, what the watch shows, waiting with an end, and making many objects."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.clusters import Running
from bench.simulation.pods import Pods
from bench.simulation.probe import HOME, Probe
from bench.simulation.usage import Usage
from tiphys.base.tasks import Supervised
from tiphys.client import Client, RestConfig
from tiphys.machinery.errors import AlreadyExistsError

WRITERS: Final = 24
PAGE: Final = 500
SAY_EVERY: Final = 15.0  # seconds


class Stuck(Exception):
    """What was waited for did not come, or the time for it is over."""


class Rig:
    """One cluster under measurement."""

    def __init__(self, running: Running, ports: dict[str, int], nodes: int, list_every: float, ends: float) -> None:
        """`ports`: component → port of its metrics; `ends`: when it must be over (monotonic)."""
        self.running = running
        self.nodes = nodes
        self.ends = ends
        self.patience = 180.0  # seconds without any progress
        self.pods = Pods()
        self.probe = Probe(nodes, list_every)
        self.usage = Usage(running)
        self.config = RestConfig.from_kubeconfig(Path(running.kubeconfig))
        self.client = Client(self.config, "bench")
        self._ports = ports
        self._token = ""

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The watch, the probe and the looks at memory, all the while."""
        async with self.client, Client(self.config, "bench-watch") as watcher, Client(self.config, "probe") as prober:
            revision = await self.pods.load(self.client)
            await self.probe.prepare(self.client)
            async with Supervised() as tasks:
                tasks.spawn(lambda: self.pods.follow(watcher, revision), name="watch")
                tasks.spawn(lambda: self.probe.run(prober), name="probe")
                tasks.spawn(self.usage.run, name="usage")
                self._token = await self._make_token()
                yield

    async def until(self, what: str, reached: Callable[[], bool], progress: Callable[[], object]) -> float:
        """Wait for it; how long that took. Raises Stuck when `progress` stands still or the time is over."""
        began = moved = said = time.monotonic()
        last: object = None
        while True:
            looked = time.monotonic()
            if reached():
                return time.monotonic() - began
            now, seen = time.monotonic(), progress()
            if seen != last:
                last, moved = seen, now
            if now - said > SAY_EVERY:
                said = now
                print(f"    {now - began:5.0f} s: {what}: {seen}", flush=True)
            if now > self.ends:
                raise Stuck(f"{what}: the time is over at {seen}")
            if now - moved > self.patience:
                raise Stuck(f"{what}: no progress for {self.patience:.0f} s at {seen}")
            await asyncio.sleep(max(0.1, 10 * (time.monotonic() - looked)))

    async def until_async(self, what: str, left: Callable[[], Awaitable[int]]) -> float:
        """Wait until a number that must be asked for is zero."""
        began, known = time.monotonic(), [-1]

        async def ask() -> None:
            while known[0] != 0:
                looked = time.monotonic()
                known[0] = await left()
                await asyncio.sleep(max(1.0, 5 * (time.monotonic() - looked)))

        task = asyncio.ensure_future(ask())
        try:
            await self.until(what, lambda: known[0] == 0 or task.done(), lambda: f"{known[0]} left")
            if task.done():
                task.result()
        finally:
            task.cancel()
        return time.monotonic() - began

    async def each(self, items: Iterable[Any], write: Callable[[Any], Awaitable[object]]) -> None:
        """Do something for each, several at once."""
        waiting = iter(items)

        async def one() -> None:
            for item in waiting:
                await write(item)

        await asyncio.gather(*(one() for _ in range(WRITERS)))

    async def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Every object of a collection, in pages."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = await self.client.request_json("GET", path, query={**query, "limit": str(PAGE), "continue": token})
            found += page.get("items") or ()
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    async def names(self, path: str, **query: str) -> list[str]:
        """Namespace and name of every object of a collection."""
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        found: list[str] = []
        token = ""
        while True:
            asked = {**query, "limit": str(PAGE), "continue": token}
            page = await self.client.request_json("GET", path, query=asked, accept=accept)
            metas = [item["metadata"] for item in page.get("items") or ()]
            found += [f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"] for meta in metas]
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    async def metrics(self) -> dict[str, str]:
        """The exposition of every component; one that does not answer is left out."""
        found = {"apiserver": (await self.client.request_bytes("GET", "/metrics")).decode()}
        for name, port in self._ports.items():
            try:
                found[name] = await asyncio.to_thread(_fetch, port, self._token)
            except OSError as error:
                print(f"    no metrics of {name}: {error}", flush=True)
        return found

    def last_words(self, name: str) -> str:
        """The end of a component's log."""
        log = Path(self.running.status()["logs"]) / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " | ".join(lines[-6:])[-1500:]

    async def _make_token(self) -> str:
        account = {"metadata": {"name": "bench"}}
        binding = {
            "metadata": {"name": "bench-metrics"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "bench", "namespace": HOME}],
        }
        bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        with suppress(AlreadyExistsError):
            await self.client.request_json("POST", f"/api/v1/namespaces/{HOME}/serviceaccounts", account)
            await self.client.request_json("POST", bindings, binding)
        path = f"/api/v1/namespaces/{HOME}/serviceaccounts/bench/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
        token: str = (await self.client.request_json("POST", path, asked))["status"]["token"]
        return token


def _fetch(port: int, token: str) -> str:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # components sign their certificates themselves; this is the loopback
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise OSError(f"{answer.status}: {body[:200]}")
        return body
    finally:
        connection.close()


def few(problems: Sequence[str], most: int = 8) -> list[str]:
    """The first of them, and how many more there are."""
    more = len(problems) - most
    return [*problems[:most], *([f"… and {more} more"] if more > 0 else [])]
