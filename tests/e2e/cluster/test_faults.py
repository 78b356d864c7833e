"""kill -9 of anything: it comes back by itself, containers run on, no acknowledged write and no event is lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster.harness import Cluster, until
from tiphys.api.core.v1 import ConfigMap
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import ApiConnectionError, Client, Informers, RestConfig
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

KILLS = int(os.environ.get("TIPHYS_TEST_KILLS", "25"))


def container_pid(cluster: Cluster, pod: str, namespace: str) -> int:
    """The process of a pod's first container, found by its cgroup."""
    uid = cluster.get("pod", pod, "-n", namespace)["metadata"]["uid"]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if uid in (entry / "cgroup").read_text() and command.startswith(b"sleep"):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no process of pod {pod}")


def restarts(cluster: Cluster, pod: str, namespace: str) -> int:
    statuses = cluster.get("pod", pod, "-n", namespace)["status"].get("containerStatuses") or [{}]
    return int(statuses[0].get("restartCount", 0))


def test_a_killed_container_is_restarted_and_counted(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("run", "victim", "-n", namespace, "--image=busybox:1.37", "--", "sleep", "3600")
    cluster.wait_ready("victim", namespace)
    os.kill(container_pid(cluster, "victim", namespace), signal.SIGKILL)
    until(lambda: restarts(cluster, "victim", namespace) == 1, "the first restart")
    cluster.wait_ready("victim", namespace)
    status = cluster.get("pod", "victim", "-n", namespace)["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 137
    assert status["lastState"]["terminated"]["reason"] == "Error"
    os.kill(container_pid(cluster, "victim", namespace), signal.SIGKILL)

    def backing_off() -> bool:
        waiting = cluster.get("pod", "victim", "-n", namespace)["status"]["containerStatuses"][0]["state"]
        return waiting.get("waiting", {}).get("reason") == "CrashLoopBackOff"

    until(backing_off, "the second restart to wait")
    until(lambda: restarts(cluster, "victim", namespace) == 2, "the second restart")


class Ledger:
    """Writes objects one after another and remembers what the server acknowledged; watches what arrives."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.acknowledged: dict[str, int] = {}
        self.seen: dict[str, list[int]] = {}
        self.failures = 0
        self.stopping = False

    async def write(self, writer: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            name = f"w{writer}-{number % 7}"
            try:
                await self._once(name, number)
            except (ApiConnectionError, StatusError, OSError, TimeoutError):
                self.failures += 1  # not acknowledged: may be there or not
                await asyncio.sleep(0.05)

    async def _once(self, name: str, number: int) -> None:
        key = ObjectName(self.namespace, name)
        data = {"number": str(number)}
        try:
            found = await self.client.patch(ConfigMap, key, {"data": data})
        except NotFoundError:
            metadata = ObjectMeta(name=name, namespace=self.namespace)
            try:
                found = await self.client.create(ConfigMap(metadata=metadata, data=data))
            except AlreadyExistsError:
                return
        self.acknowledged[name] = max(self.acknowledged.get(name, 0), int(found.data["number"]))

    def observe(self, item: ConfigMap) -> None:
        if "number" in item.data:
            self.seen.setdefault(item.metadata.name, []).append(int(item.data["number"]))


@pytest.mark.slow
async def test_kill_anything_at_random_under_load(cluster: Cluster, namespace: str) -> None:
    """The number of kills is TIPHYS_TEST_KILLS (25; the full hundred takes two minutes)."""
    cluster.kubectl("run", "steady", "-n", namespace, "--image=busybox:1.37", "--", "sleep", "3600")
    cluster.wait_ready("steady", namespace)
    process = container_pid(cluster, "steady", namespace)
    killed: dict[str, int] = {}
    async with Client(RestConfig.from_kubeconfig(cluster.kubeconfig), "ledger") as client:
        ledger = Ledger(client, namespace)
        informers = Informers(client)
        informer = informers.of(ConfigMap, namespace=namespace)
        informer.add_handler(ledger.observe, lambda _, new: ledger.observe(new), None)
        watching = asyncio.create_task(informers.run())
        writers = [asyncio.create_task(ledger.write(number)) for number in range(4)]
        chance = random.Random(7)
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            pids: dict[str, Any] = await asyncio.to_thread(all_pids, cluster)
            name = chance.choice(sorted(pids))
            killed[name] = killed.get(name, 0) + 1
            os.kill(pids[name], signal.SIGKILL)
        await asyncio.sleep(1)
        ledger.stopping = True
        await asyncio.gather(*writers)

        async def caught_up() -> bool:
            return all(ledger.seen.get(name, [0])[-1] >= number for name, number in ledger.acknowledged.items())

        for _ in range(200):
            if await caught_up():
                break
            await asyncio.sleep(0.1)
        found = {
            item.metadata.name: int(item.data["number"])
            for item in (await client.list(ConfigMap, namespace=namespace)).items
            if "number" in item.data
        }
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    lost = {
        name: (number, found.get(name)) for name, number in ledger.acknowledged.items() if found.get(name, 0) < number
    }
    assert not lost, f"acknowledged but gone after {killed}: {lost}"
    assert sum(len(numbers) for numbers in ledger.seen.values()) > KILLS
    for name, numbers in ledger.seen.items():
        assert numbers == sorted(numbers), f"{name} went back in time: {numbers}"
        assert numbers[-1] == found[name], f"{name}: the watcher stopped at {numbers[-1]}, the server has {found[name]}"
    # The container was not touched, and everything is there again.
    assert await asyncio.to_thread(Path(f"/proc/{process}").exists)
    assert restarts(cluster, "steady", namespace) == 0
    until(lambda: all(row["state"] in ("ready", "done") for row in cluster.status()["processes"]), "all to be ready")
    until(lambda: "NotReady" not in cluster.kubectl("get", "nodes"), "the nodes to be Ready")


def all_pids(cluster: Cluster) -> dict[str, int]:
    """Every process of ours that can be killed, the supervisor and its guard among them."""
    pids: dict[str, int] = {}
    run = Path("/run/tiphys") / cluster.name / "pids"
    for path in run.glob("*.pid"):
        text = path.read_text()
        if text and Path(f"/proc/{text}").exists():
            pids[path.stem] = int(text)
    return pids
