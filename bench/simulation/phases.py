"""What is done to the cluster, and the exact state it must end in. Every phase gives its figures and its problems."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from bench.simulation.checks import check_jobs, check_pods, ready_nodes
from bench.simulation.results import START, Latency, started
from bench.simulation.rig import Rig, Stuck
from bench.simulation.slices import Slices
from bench.simulation.workloads import LOAD, Set, chosen, deployment, job, lone_pod, plan, service, template
from tiphys.client import PatchType

MERGE: Final = str(PatchType.MERGE)
LOST: Final = "simulation.tiphys.dev/lost"
ZONE: Final = "topology.kubernetes.io/zone"
LONE_PODS_A_SECOND: Final = 20.0
SETTLE: Final = 20.0  # seconds in which controllers may do what they should not
JOBS: Final = "jobs"
TENANT: Final = "tenant-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything."""

    pods: int
    sizes: dict[int, float]  # of Deployments → share of the pods
    standing: bool
    starts: int
    rolling: int
    zone: str
    lost_seconds: float
    jobs: int
    completions: int
    services: int
    namespaces: int


@dataclass(slots=True)
class Found:
    """What a phase says of itself."""

    figures: dict[str, str] = field(default_factory=dict)
    latencies: list[Latency] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def rate(self, what: str, number: int, seconds: float) -> None:
        self.figures[what] = f"{number} in {seconds:.1f} s, {number / max(seconds, 0.001):.0f}/s"


class Replaced:
    """How far an update of some Deployments to the template of version 2 is."""

    def __init__(self, rig: Rig, sets: list[Set]) -> None:
        self.total = sum(each.replicas for each in sets)
        self.fewest = self.total  # Ready at any moment that was looked at
        self._pods = rig.pods
        self._apps = {each.app for each in sets}
        self._last = (0, 0, 0)

    def wholly(self) -> bool:
        """Whether all pods are new and Ready."""
        there = [(uid in self._pods.ready, pod) for uid, pod in self._pods.there.items() if pod.app in self._apps]
        new = [ready for ready, pod in there if pod.metadata.labels.get("version") == "2"]
        self.fewest = min(self.fewest, sum(ready for ready, _ in there))
        self._last = (len(there) - len(new), len(new), sum(new))
        return self._last == (0, self.total, self.total)

    def progress(self) -> str:
        """As of the last look."""
        return "{} old, {} new, {} of them Ready".format(*self._last)


class Phases:
    """The phases of one run; later ones rely on what the first has made."""

    def __init__(self, rig: Rig, sizes: Sizes) -> None:
        self._rig = rig
        self._sizes = sizes
        self.sets = plan(sizes.pods, sizes.sizes)

    def table(self) -> dict[str, Callable[[Found], Awaitable[None]]]:
        """All of them, in their order."""
        return {
            "nodes": self.nodes,
            "pods": self.standing if self._sizes.standing else self.pods,
            "starts": self.starts,
            "rolling": self.rolling,
            "zone": self.zone,
            "jobs": self.jobs,
            "services": self.services,
            "namespaces": self.namespaces,
            "deletion": self.deletion,
        }

    async def nodes(self, found: Found) -> None:
        """`up` has made them: all are there and Ready."""
        nodes = await self._rig.items("/api/v1/nodes")
        moments = [datetime.fromisoformat(node["metadata"]["creationTimestamp"]) for node in nodes]
        # Times in the API are whole seconds.
        found.rate("nodes made", len(nodes), max((max(moments) - min(moments)).total_seconds(), 1.0))
        found.problems += [f"{len(nodes)} nodes"] if len(nodes) != self._rig.nodes else []
        ready = await ready_nodes(self._rig)
        found.problems += [f"{ready} nodes are Ready"] if ready != self._rig.nodes else []

    async def standing(self, found: Found) -> None:
        """The pods were there when the cluster started: everybody sees them, and nothing is changed."""
        rig, total = self._rig, self._sizes.pods
        await rig.until(f"{total} pods Ready", lambda: len(rig.pods.ready) >= total, lambda: len(rig.pods.ready))
        found.figures["Deployments"] = str(len(self.sets))
        await asyncio.sleep(SETTLE)
        await self._settled(found, "1")

    async def pods(self, found: Found) -> None:
        """All Deployments at once, until every pod is Ready."""
        rig, total = self._rig, self._sizes.pods
        for name in sorted({each.namespace for each in self.sets}):
            await rig.client.request_json("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        rig.pods.forget_starts()
        began = time.monotonic()
        making = asyncio.ensure_future(
            rig.each(self.sets, lambda each: self._post("apps/v1", each.namespace, "deployments", deployment(each)))
        )
        try:
            await rig.until(f"{total} pods Ready", lambda: len(rig.pods.ready) >= total, lambda: len(rig.pods.ready))
        finally:
            found.rate("pods brought to Ready", len(rig.pods.ready), time.monotonic() - began)
            making.cancel() if not making.done() else making.result()
        found.figures["Deployments"] = str(len(self.sets))
        # Of a flood the time in the scheduler's queue is most; the objective is for pods one after another.
        found.latencies.append(started(rig.pods.starts, 0.0))
        await self._settled(found, "1")

    async def starts(self, found: Found) -> None:
        """Pods one after another in the full cluster: what the objective for pod starts is about."""
        rig, number = self._rig, self._sizes.starts
        seen, namespace = set(rig.pods.there), f"{LOAD}0"
        rig.pods.forget_starts()
        began = time.monotonic()
        for turn in range(number):
            await asyncio.sleep(max(0.0, began + turn / LONE_PODS_A_SECOND - time.monotonic()))
            await self._post("v1", namespace, "pods", lone_pod(turn))
        await rig.until(
            f"{number} lone pods Ready", lambda: len(rig.pods.starts) >= number, lambda: len(rig.pods.starts)
        )
        found.latencies.append(started(rig.pods.starts, START))
        nodes = Counter(pod.spec.node_name for uid, pod in rig.pods.there.items() if uid not in seen)
        found.figures["nodes used"] = str(len(nodes))
        path = f"/api/v1/namespaces/{namespace}/pods/lone-"
        await rig.each(range(number), lambda turn: rig.client.request_json("DELETE", f"{path}{turn}"))
        await rig.until("lone pods gone", lambda: len(rig.pods.there) <= len(seen), lambda: len(rig.pods.there))
        found.problems += await check_pods(rig, self.sets, {})

    async def rolling(self, found: Found) -> None:
        """A new template for the largest Deployments together, until no old pod is left."""
        rig = self._rig
        sets = chosen(self.sets, self._sizes.rolling)
        replaced = Replaced(rig, sets)
        total = replaced.total
        rig.pods.forget_starts()
        began = time.monotonic()
        await rig.each(sets, self._change)
        await rig.until(f"{total} pods replaced", replaced.wholly, replaced.progress)
        found.rate("pods replaced", total, time.monotonic() - began)
        found.figures["Deployments"] = str(len(sets))
        found.figures["fewest Ready meanwhile"] = f"{replaced.fewest} of {total}"
        if replaced.fewest < total * 0.75 - len(sets):
            found.problems.append(f"only {replaced.fewest} of {total} pods were Ready, where 25 % may be unavailable")
        found.latencies.append(started(rig.pods.starts, 0.0))
        await self._settled(found, "2", sets)

    async def zone(self, found: Found) -> None:
        """A zone is lost, stays lost for a while, and comes back."""
        rig, sizes = self._rig, self._sizes
        nodes = await rig.names("/api/v1/nodes", labelSelector=f"{ZONE}={sizes.zone}")
        lost = set(nodes)
        there = len(await rig.names("/api/v1/nodes"))
        if not nodes or len(nodes) == there:
            raise Stuck(f"{len(nodes)} of {there} nodes are in {sizes.zone}")
        found.figures["nodes lost"] = f"{len(nodes)} of {there}"
        before = sum(pod.spec.node_name in lost for pod in rig.pods.there.values())
        await rig.each(nodes, lambda name: self._lose(name, "true"))
        began = time.monotonic()

        def still_ready() -> int:
            return sum(rig.pods.there[uid].spec.node_name in lost for uid in rig.pods.ready)

        async def heard() -> int:
            return len(nodes) - (there - await ready_nodes(rig))

        await rig.until_async("nodes found silent", heard)
        found.figures["all nodes found silent after"] = f"{time.monotonic() - began:.0f} s"
        took = await rig.until(f"{before} pods marked not Ready", lambda: still_ready() == 0, still_ready)
        found.figures["all their pods not Ready after"] = f"{time.monotonic() - began:.0f} s ({took:.0f} s later)"
        await asyncio.sleep(max(0.0, began + sizes.lost_seconds - time.monotonic()))
        await self._check_evictions(found, lost, time.monotonic() - began)
        began = time.monotonic()
        await rig.each(nodes, lambda name: self._lose(name, None))

        async def missing() -> int:
            return there - await ready_nodes(rig)

        await rig.until_async("nodes Ready again", missing)
        found.figures["all nodes Ready again after"] = f"{time.monotonic() - began:.0f} s"
        total = sizes.pods
        await rig.until(
            f"{total} pods Ready again",
            lambda: len(rig.pods.ready) == total == len(rig.pods.there),
            lambda: f"{len(rig.pods.ready)} Ready of {len(rig.pods.there)}",
        )
        found.figures["all pods Ready again after"] = f"{time.monotonic() - began:.0f} s"
        await self._settled(found, "")

    async def jobs(self, found: Found) -> None:
        """Indexed Jobs, all at once, until all are complete; then their deletion with all they made."""
        rig, number, completions = self._rig, self._sizes.jobs, self._sizes.completions
        there = len(rig.pods.there)
        await rig.client.request_json("POST", "/api/v1/namespaces", {"metadata": {"name": JOBS}})
        began = time.monotonic()
        await rig.each(range(number), lambda turn: self._post("batch/v1", JOBS, "jobs", job(turn, completions)))

        async def unfinished() -> int:
            jobs = await rig.items(f"/apis/batch/v1/namespaces/{JOBS}/jobs")
            done = sum("completionTime" in (each.get("status") or {}) for each in jobs)
            return number - done

        await rig.until_async(f"{number} Jobs complete", unfinished)
        took = time.monotonic() - began
        found.rate("Jobs", number, took)
        found.rate("their pods", number * completions, took)
        found.problems += await check_jobs(rig, JOBS, number, completions)
        began = time.monotonic()
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        await rig.client.request_json("DELETE", f"/apis/batch/v1/namespaces/{JOBS}/jobs", options)
        await rig.until("pods of Jobs gone", lambda: len(rig.pods.there) <= there, lambda: len(rig.pods.there) - there)
        found.rate("deleted with their pods", number, time.monotonic() - began)
        found.problems += await check_pods(rig, self.sets, {})

    async def services(self, found: Found) -> None:
        """Services on the Deployments, until every one has exactly its pods as endpoints."""
        rig, number = self._rig, self._sizes.services
        # The smallest first: most Services are small.
        targets = [self.sets[-1 - turn % len(self.sets)] for turn in range(number)]
        wanted = {f"{each.namespace}/svc-{turn}": each.replicas for turn, each in enumerate(targets)}
        async with Slices(rig) as slices:
            began = time.monotonic()
            await rig.each(
                enumerate(targets),
                lambda item: self._post("v1", item[1].namespace, "services", service(*item)),
            )
            made = time.monotonic() - began
            await rig.until(
                f"endpoints of {number} Services",
                lambda: slices.ready() == wanted,
                lambda: f"{sum(slices.ready().get(name) == count for name, count in wanted.items())} right",
            )
            found.rate("Services made", number, made)
            found.rate("Services with their endpoints", number, time.monotonic() - began)
            found.figures["endpoints"] = str(sum(wanted.values()))
            began = time.monotonic()
            path = "/api/v1/namespaces/{}/services/svc-{}"
            await rig.each(
                enumerate(targets),
                lambda item: rig.client.request_json("DELETE", path.format(item[1].namespace, item[0])),
            )
            await rig.until("slices gone", lambda: not slices.ready(), lambda: len(slices.ready()))
            found.rate("deleted with their slices", number, time.monotonic() - began)
        left = [name for name in await rig.names("/api/v1/endpoints") if name in wanted]
        found.problems += [f"{len(left)} Endpoints are left"] if left else []

    async def namespaces(self, found: Found) -> None:
        """Namespaces with a little in each; then their deletion."""
        rig, number = self._rig, self._sizes.namespaces
        names = {f"{TENANT}{turn}" for turn in range(number)}

        async def make(name: str) -> None:
            await rig.client.request_json("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
            await self._post("v1", name, "configmaps", {"metadata": {"name": "c"}, "data": {"a": "b"}})
            await self._post("v1", name, "secrets", {"metadata": {"name": "s"}, "stringData": {"a": "b"}})

        async def furnished(path: str, thing: str) -> int:
            there = await rig.names(path, fieldSelector=f"metadata.name={thing}")
            return number - sum(each.partition("/")[0] in names for each in there)

        began = time.monotonic()
        await rig.each(sorted(names), make)
        await rig.until_async("service accounts", lambda: furnished("/api/v1/serviceaccounts", "default"))
        await rig.until_async("root certificates", lambda: furnished("/api/v1/configmaps", "kube-root-ca.crt"))
        found.rate("namespaces with what belongs in each", number, time.monotonic() - began)
        began = time.monotonic()
        await rig.each(sorted(names), lambda name: rig.client.request_json("DELETE", f"/api/v1/namespaces/{name}"))

        async def left() -> int:
            return sum(name in names for name in await rig.names("/api/v1/namespaces"))

        await rig.until_async("namespaces gone", left)
        found.rate("deleted with all in them", number, time.monotonic() - began)
        for kind in ("configmaps", "secrets", "serviceaccounts"):
            orphans = [one for one in await rig.names(f"/api/v1/{kind}") if one.partition("/")[0] in names]
            found.problems += [f"{len(orphans)} {kind} are left in namespaces that are gone"] if orphans else []

    async def deletion(self, found: Found) -> None:
        """Every Deployment is deleted; the garbage collector takes what they owned."""
        rig, there = self._rig, len(self._rig.pods.there)
        began = time.monotonic()
        path = "/apis/apps/v1/namespaces/{}/deployments/{}"
        await rig.each(
            self.sets, lambda each: rig.client.request_json("DELETE", path.format(each.namespace, each.name))
        )
        await rig.until("pods gone", lambda: not rig.pods.there, lambda: len(rig.pods.there))
        found.rate("pods gone", there, time.monotonic() - began)
        for kind in ("replicasets", "deployments"):
            left = await rig.names(f"/apis/apps/v1/{kind}")
            found.problems += [f"{len(left)} {kind} are left"] if left else []
        left = await rig.names("/api/v1/pods")
        found.problems += [f"{len(left)} pods are left"] if left else []

    # --- what several do --------------------------------------------------------------------

    async def _settled(self, found: Found, version: str, sets: list[Set] | None = None) -> None:
        """Deployments say what is so, and what is so is exact."""
        rig = self._rig
        sets = self.sets if sets is None else sets
        wanted = {each.app: each.replicas for each in sets}

        async def behind() -> int:
            listed = await rig.items("/apis/apps/v1/deployments", labelSelector="load=true")
            counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            left = dict(wanted)
            for each in listed:
                meta, status = each["metadata"], each.get("status") or {}
                name = f"{meta['namespace']}/{meta['name']}"
                seen = status.get("observedGeneration") == meta["generation"]
                if name in left and seen and all(status.get(count) == left[name] for count in counts):
                    del left[name]
            return len(left)

        took = await rig.until_async("Deployments report it", behind)
        found.figures["Deployments report it"] = f"{took:.1f} s later"
        versions = {each.app: version for each in sets} if version else {}
        found.problems += await check_pods(rig, self.sets, versions)

    async def _change(self, each: Set) -> None:
        path = f"/apis/apps/v1/namespaces/{each.namespace}/deployments/{each.name}"
        body = {"spec": {"template": template({"app": each.name}, "2")}}
        await self._rig.client.request_json("PATCH", path, body, content_type=MERGE)

    async def _lose(self, node: str, value: str | None) -> None:
        body = {"metadata": {"annotations": {LOST: value}}}
        await self._rig.client.request_json("PATCH", f"/api/v1/nodes/{node}", body, content_type=MERGE)

    async def _check_evictions(self, found: Found, lost: set[str], seconds: float) -> None:
        """No faster than the rate for a zone that is down altogether while others are not: 0.1 a second."""
        nodes = await self._rig.items("/api/v1/nodes", labelSelector=f"{ZONE}={self._sizes.zone}")
        tainted = sum(
            any(taint["effect"] == "NoExecute" for taint in node["spec"].get("taints") or ()) for node in nodes
        )
        moved = sum(
            pod.metadata.deletion_timestamp is not None and pod.spec.node_name in lost
            for pod in self._rig.pods.there.values()
        )
        found.figures["nodes evicted"] = f"{tainted} in {seconds:.0f} s, {moved} pods"
        if tainted > 2 + seconds * 0.1:
            found.problems.append(f"{tainted} nodes were evicted in {seconds:.0f} s, where 0.1 a second may be")

    async def _post(self, version: str, namespace: str, plural: str, body: dict[str, Any]) -> None:
        prefix = f"/api/{version}" if version == "v1" else f"/apis/{version}"
        await self._rig.client.request_json("POST", f"{prefix}/namespaces/{namespace}/{plural}", body)
