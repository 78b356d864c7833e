"""One way to try every controller: run it against a fake API server in virtual time, with faults.

`World` holds the server, the clock and a client. `run(controller)` works until the test's block
ends; `settle` lets virtual time pass until nothing more is written. `kubelet` plays the nodes: pods
become Running and Ready, and deleted ones go away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.unit.client.fakeapi import FakeApi
from tests.unit.client.faults import FaultyTransport, Rates
from tiphys.base.clock import FakeClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Controller, EventRecorder, Informers, RestConfig
from tiphys.controllers.common.context import ControllerContext, Options

PODS = "/api/v1/pods"
REPLICA_SETS = "/apis/apps/v1/replicasets"
DEPLOYMENTS = "/apis/apps/v1/deployments"
EVENTS = "/api/v1/events"

Json = dict[str, Any]
Make = Callable[[ControllerContext], Controller[Any]]


class World:
    api_type: type[FakeApi] = FakeApi

    def __init__(
        self, *, faults: int | None = None, options: Options | None = None, rates: Rates | None = None
    ) -> None:
        self.clock = FakeClock()
        self.api = self.api_type(self.clock)
        self.faulty = FaultyTransport(self.api, self.clock, faults or 0, Rates.none() if faults is None else rates)
        self.options = options or Options()
        self.ready_after = 1.0
        self._recorders: dict[str, EventRecorder] = {}

    @asynccontextmanager
    async def running(self, *makers: Make, kubelet: bool = True) -> AsyncIterator[World]:
        """Run controllers (and the nodes) inside the block."""
        client = Client(RestConfig(server="http://test"), clock=self.clock, transport=self.faulty)
        informers = Informers(client, self.clock)
        recorders: list[EventRecorder] = []

        def recorder(component: str) -> EventRecorder:
            made = EventRecorder(client, self.clock, component)
            recorders.append(made)
            return made

        context = ControllerContext(
            client=client, clock=self.clock, informers=informers, recorder=recorder, options=self.options
        )
        controllers = [make(context) for make in makers]
        async with Supervised(self.clock) as tasks:
            tasks.spawn(informers.run, name="informers")
            for controller in controllers:
                tasks.spawn(controller.run, name=controller.name)
            for made in recorders:
                tasks.spawn(made.run, name="events", restart=True)
            if kubelet:
                tasks.spawn(self._kubelet, name="kubelet")
            yield self

    async def settle(self, seconds: float = 30.0, step: float = 0.5) -> None:
        """Let virtual time pass until nothing changed for a while; at most twenty times `seconds`."""
        quiet = 0.0
        for _ in range(int(20 * seconds / step)):
            before = self.api.revision
            await self.clock.advance(step)
            quiet = quiet + step if self.api.revision == before else 0.0
            if quiet >= seconds:
                return

    async def pass_time(self, seconds: float, step: float = 0.5) -> None:
        for _ in range(int(seconds / step)):
            await self.clock.advance(step)

    async def _kubelet(self) -> None:
        while True:
            await self.clock.sleep(self.ready_after)
            for pod in self.api.list(PODS):
                meta = pod["metadata"]
                key = (meta.get("namespace", ""), meta["name"])
                phase = pod.get("status", {}).get("phase")
                if "deletionTimestamp" in meta:
                    if not meta.get("finalizers"):
                        self.api.remove(PODS, *key)
                    elif phase not in ("Succeeded", "Failed"):
                        self.api.change(PODS, *key, self._ended("Failed"))
                elif phase == "Running" and (end := self.ends(pod)):
                    self.api.change(PODS, *key, self._ended(end))
                elif phase not in ("Running", "Succeeded", "Failed") and self.runs(pod):
                    self.api.change(PODS, *key, self._running(pod))

    def runs(self, pod: Json) -> bool:
        """Whether a node takes the pod and brings it to Running; replace it to say otherwise."""
        return True

    def ends(self, pod: Json) -> str:
        """The phase in which a running pod ends, "" while it does not."""
        return ""

    def _ended(self, phase: str) -> Json:
        now = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        code = {"exitCode": 0 if phase == "Succeeded" else 1, "finishedAt": now}
        return {
            "status": {
                "phase": phase,
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}],
                "containerStatuses": [{"name": "c", "state": {"terminated": code}}],
            }
        }

    def _running(self, pod: Json) -> Json:
        now = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        number = len(self.api.log)
        return {
            "spec": {"nodeName": pod["spec"].get("nodeName") or "n1"},
            "status": {
                "phase": "Running",
                "podIP": f"10.244.{number // 250 % 250}.{number % 250 + 1}",
                "podIPs": [{"ip": f"10.244.{number // 250 % 250}.{number % 250 + 1}"}],
                "conditions": [ready],
            },
        }

    def events(self) -> list[tuple[str, str]]:
        return [(event["reason"], event["message"]) for event in self.api.list(EVENTS)]


def template(image: str = "img", labels: Json | None = None) -> Json:
    return {
        "metadata": {"labels": labels or {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": image}], "restartPolicy": "Always"},
    }


def replica_set(name: str = "r", replicas: int = 3, **spec: Any) -> Json:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "template": template(), **spec},
        "status": {},
    }


def deployment(name: str = "d", replicas: int = 3, **spec: Any) -> Json:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "a"}},
            "template": template(),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
            **spec,
        },
        "status": {},
    }


def pod(name: str, labels: Json | None = None, node: str = "n1", **status: Any) -> Json:
    return {
        "metadata": {"name": name, "namespace": "default", "labels": labels or {"app": "a"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "img"}]},
        "status": {"phase": "Running", **status},
    }


def names(objects: Sequence[Json]) -> list[str]:
    return sorted(obj["metadata"]["name"] for obj in objects)


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
