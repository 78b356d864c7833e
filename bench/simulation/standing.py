"""Puts a standing cluster into the datastore while the cluster is down: Deployments as they are when all is well.

To bring a hundred thousand pods to Ready takes minutes of two cores; what is to be seen of so many (how components
start, how large they are, what an update or the loss of a zone costs among them) needs them to stand there only. The
Deployments and their ReplicaSets are made by the API and its controllers, of no pods; then the numbers are written,
and each pod as a copy of one that the cluster brought to Ready itself.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from bench.simulation.rig import Rig
from bench.simulation.workloads import Set, deployment
from tiphys.store import SQLiteStore

AT_ONCE: Final = 400
QUOTA: Final = 8 << 30  # bytes; what etcd is given in large clusters
SAMPLE: Final = Set("sample-namespace", "sample-application", 1)
DESIRED: Final = "deployment.kubernetes.io/desired-replicas"
LARGEST: Final = "deployment.kubernetes.io/max-replicas"


async def prepare(rig: Rig, sets: list[Set]) -> None:
    """Make every Deployment with no pods, and the one pod that is copied."""
    for name in sorted({SAMPLE.namespace, *(each.namespace for each in sets)}):
        await rig.client.request_json("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    async def make(each: Set) -> None:
        body = deployment(each)
        body["spec"]["replicas"] = 1 if each is SAMPLE else 0
        path = f"/apis/apps/v1/namespaces/{each.namespace}/deployments"
        await rig.client.request_json("POST", path, body)

    await rig.each([SAMPLE, *sets], make)

    async def behind() -> int:
        listed = await rig.items("/apis/apps/v1/deployments", labelSelector="load=true")
        done = [each for each in listed if (each.get("status") or {}).get("observedGeneration") == 1]
        return len(sets) + 1 - len(done)

    await rig.until_async("Deployments of no pods", behind)
    await rig.until("the pod that is copied", lambda: bool(rig.pods.ready), lambda: len(rig.pods.ready))


async def fill(state: Path, sets: list[Set], nodes: int) -> int:
    """Write the pods and the numbers into the datastore of a cluster that is down; how many pods that are."""
    store = await SQLiteStore.open(state / "store", quota=QUOTA)
    try:
        wanted = {each.app: each.replicas for each in sets}
        owners: dict[str, tuple[str, str]] = {}  # app → name and uid of its ReplicaSet
        for kind in ("deployments", "replicasets"):
            for key, value, revision in await _under(store, f"/registry/apps/{kind}/"):
                found = orjson.loads(value)
                meta = found["metadata"]
                app = f"{meta['namespace']}/{found['spec']['selector']['matchLabels']['app']}"
                if kind == "replicasets":
                    owners[app] = (meta["name"], meta["uid"])
                if app in wanted:
                    await store.update(key, orjson.dumps(_grown(found, wanted[app])), expect=revision)
        sample = (await _under(store, f"/registry/core/pods/{SAMPLE.namespace}/"))[0][1]
        copies = _copies(sample, owners, sets, nodes)
        number = 0
        while batch := list(islice(copies, AT_ONCE)):
            await asyncio.gather(*(store.create(key, value) for key, value in batch))
            number += len(batch)
        for kind in ("apps/deployments", "apps/replicasets", "core/pods"):
            for key, _, _ in await _under(store, f"/registry/{kind}/{SAMPLE.namespace}/"):
                await store.delete(key)
        return number
    finally:
        await store.close()


async def _under(store: SQLiteStore, prefix: str) -> list[tuple[str, bytes, int]]:
    found = await store.range(prefix, prefix[:-1] + chr(ord("/") + 1))
    return [(each.key, each.value, each.mod_revision) for each in found.items]


def _grown(found: dict[str, Any], replicas: int) -> dict[str, Any]:
    """A Deployment or ReplicaSet of no pods as it is with so many."""
    found["spec"]["replicas"] = replicas
    status = found["status"]
    other = "updatedReplicas" if found["kind"] == "Deployment" else "fullyLabeledReplicas"
    counts = ("replicas", "readyReplicas", "availableReplicas", other)
    status |= dict.fromkeys(counts, replicas)
    notes = found["metadata"].get("annotations", {})
    if DESIRED in notes:
        notes[DESIRED], notes[LARGEST] = str(replicas), str(replicas + math.ceil(replicas * 0.25))
    return found


def _copies(
    sample: bytes, owners: dict[str, tuple[str, str]], sets: list[Set], nodes: int
) -> Iterator[tuple[str, bytes]]:
    """Keys and values of all pods, over the nodes in turn."""
    pod = orjson.loads(sample)
    meta, status = pod["metadata"], pod["status"]
    owner = meta["ownerReferences"][0]
    words = [meta["name"], meta["uid"], owner["name"], owner["uid"], SAMPLE.name, SAMPLE.namespace]
    words += [pod["spec"]["nodeName"], status["podIP"], status["hostIP"], meta["labels"]["pod-template-hash"]]
    # The longer words first: some begin with others.
    order = sorted(range(len(words)), key=lambda turn: -len(words[turn]))
    number = 0
    for each in sets:
        set_name, set_uid = owners[each.app]
        template_hash = set_name.rpartition("-")[2]
        for turn in range(each.replicas):
            node, on_node = number % nodes, number // nodes
            high, low = divmod(node, 256)
            name = f"{set_name}-{turn:05x}"
            new = [name, str(uuid.uuid4()), set_name, set_uid, each.name, each.namespace, f"simulated-{node + 1:05d}"]
            new += [f"100.{64 + high}.{low}.{on_node + 2}", f"198.{18 + high // 256}.{high % 256}.{low}", template_hash]
            value = sample
            for place in order:
                value = value.replace(words[place].encode(), new[place].encode())
            yield f"/registry/core/pods/{each.namespace}/{name}", value
            number += 1
