"""The controller manager against the real API server, whole: what a new cluster does first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.integration.client.server import api_server
from tiphys.api.apps.v1 import Deployment, DeploymentSpec, ReplicaSet
from tiphys.api.core.v1 import (
    ConfigMap,
    Container,
    Namespace,
    Node,
    Pod,
    PodSpec,
    PodTemplateSpec,
    ServiceAccount,
)
from tiphys.api.meta.v1 import LabelSelector, ObjectMeta
from tiphys.base.clock import SystemClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client
from tiphys.controllers import ControllerManager, Options
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName


@asynccontextmanager
async def managed() -> AsyncIterator[Client]:
    clock = SystemClock()
    async with api_server() as config, Client(config, "test/1.0") as client:
        for name in ("default", "kube-system"):
            await client.create(Namespace(metadata=ObjectMeta(name=name)))
        async with Client(config, "kube-controller-manager/v1.36.2") as own, Supervised(clock) as tasks:
            options = Options(root_ca=b"CA", cluster_cidrs=("10.244.0.0/16",))
            manager = ControllerManager(options, own, clock)
            tasks.spawn(manager.run, name="manager")
            yield client


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not happen within twenty seconds")


def deployment(replicas: int = 2) -> Deployment:
    labels = {"app": "a"}
    template = PodTemplateSpec(
        metadata=ObjectMeta(labels=labels), spec=PodSpec(containers=(Container(name="c", image="img"),))
    )
    spec = DeploymentSpec(replicas=replicas, selector=LabelSelector(match_labels=labels), template=template)
    return Deployment(metadata=ObjectMeta(name="d", namespace="default"), spec=spec)


async def test_a_new_namespace_gets_its_account_and_ca_and_goes_away_with_its_content() -> None:
    async with managed() as client:
        await client.create(Namespace(metadata=ObjectMeta(name="x")))

        async def furnished() -> bool:
            accounts = await client.list(ServiceAccount, namespace="x")
            maps = await client.list(ConfigMap, namespace="x")
            return bool(accounts.items) and [found.metadata.name for found in maps.items] == ["kube-root-ca.crt"]

        await eventually(furnished)
        await client.delete(Namespace, ObjectName("", "x"))

        async def gone() -> bool:
            try:
                await client.get(Namespace, ObjectName("", "x"))
            except NotFoundError:
                return True
            return False

        await eventually(gone)


async def test_a_deployment_makes_pods_and_foreground_deletion_takes_all_of_it() -> None:
    async with managed() as client:
        await client.create(deployment())

        async def made() -> bool:
            pods = await client.list(Pod, namespace="default")
            found = await client.get(Deployment, ObjectName("default", "d"))
            return len(pods.items) == 2 and found.status.updated_replicas == 2

        await eventually(made)
        await client.delete(Deployment, ObjectName("default", "d"), propagation="Foreground")

        async def gone() -> bool:
            left = [await client.list(kind, namespace="default") for kind in (Pod, ReplicaSet, Deployment)]
            return not any(found.items for found in left)

        await eventually(gone)


async def test_a_node_gets_its_pod_addresses() -> None:
    async with managed() as client:
        await client.create(Node(metadata=ObjectMeta(name="n1")))
        await client.create(Node(metadata=ObjectMeta(name="n2")))

        async def addressed() -> bool:
            nodes = await client.list(Node)
            return sorted(node.spec.pod_cidr for node in nodes.items) == ["10.244.0.0/24", "10.244.1.0/24"]

        await eventually(addressed)
