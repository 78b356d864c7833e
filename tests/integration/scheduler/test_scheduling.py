"""The scheduler against the real API server: pods get nodes, or the reason why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.integration.client.server import api_server
from tiphys.api.core.v1 import Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.policy.v1 import PodDisruptionBudget
from tiphys.api.storage.v1 import StorageClass
from tiphys.base.clock import SystemClock
from tiphys.base.metrics import REGISTRY
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers, PatchType
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler import Scheduler


@asynccontextmanager
async def scheduling() -> AsyncIterator[Client]:
    clock = SystemClock()
    async with api_server() as config, Client(config, "test/1.0") as client:
        await client.create(Namespace(metadata=ObjectMeta(name="default")))
        async with Client(config, "kube-scheduler/v1.36.2") as own, Supervised(clock) as tasks:
            informers = Informers(own, clock)
            scheduler = Scheduler(own, informers, clock=clock)
            tasks.spawn(informers.run, name="informers")
            tasks.spawn(scheduler.run, name="scheduler")
            yield client


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not happen within twenty seconds")


async def create_node(client: Client, name: str, cpu: str = "4", taints: list[dict[str, str]] | None = None) -> None:
    raw = {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": taints or []},
    }
    node = await client.create(msgspec.convert(raw, Node))
    allocatable = {"cpu": cpu, "memory": "8Gi", "pods": "110"}
    status = {"status": {"capacity": allocatable, "allocatable": allocatable}}
    await client.patch(Node, ObjectName("", node.metadata.name), status, subresource="status")


async def create_pod(client: Client, name: str, requests: Mapping[str, str] | None = None, **spec: Any) -> None:
    container = {"name": "c", "image": "app", "resources": {"requests": dict(requests or {})}}
    labels = spec.pop("labels", {})
    raw = {
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"containers": [container], **spec},
    }
    await client.create(msgspec.convert(raw, Pod))


async def get_pod(client: Client, name: str) -> Pod:
    return await client.get(Pod, ObjectName("default", name))


async def messages(client: Client, name: str, reason: str) -> list[str]:
    events = await client.list(Event, namespace="default")
    return [one.message for one in events.items if one.involved_object.name == name and one.reason == reason]


async def test_pods_are_spread_and_said_so() -> None:
    async with scheduling() as client:
        for node in ("n1", "n2"):
            await create_node(client, node)
        for number in range(6):
            await create_pod(client, f"p{number}", {"cpu": "500m"})

        async def bound() -> bool:
            return all([(await get_pod(client, f"p{number}")).spec.node_name for number in range(6)])

        await eventually(bound)
        nodes = [(await get_pod(client, f"p{number}")).spec.node_name for number in range(6)]
        assert sorted(nodes) == ["n1"] * 3 + ["n2"] * 3
        conditions = (await get_pod(client, "p0")).status.conditions
        assert [(one.type, one.status) for one in conditions if one.type == "PodScheduled"] == [
            ("PodScheduled", "True")
        ]

        async def told() -> bool:
            return await messages(client, "p0", "Scheduled") == [f"Successfully assigned default/p0 to {nodes[0]}"]

        await eventually(told)


async def test_why_a_pod_is_pending_and_what_wakes_it() -> None:
    async with scheduling() as client:
        await create_node(client, "small", cpu="1")
        await create_node(client, "tainted", taints=[{"key": "gpu", "value": "true", "effect": "NoSchedule"}])
        await create_pod(client, "big", {"cpu": "2"})
        expected = (
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: true}. "
            "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        )

        async def explained() -> bool:
            return expected in await messages(client, "big", "FailedScheduling")

        await eventually(explained)

        async def condition() -> bool:
            found = [one for one in (await get_pod(client, "big")).status.conditions if one.type == "PodScheduled"]
            return [(one.status, one.reason, one.message) for one in found] == [("False", "Unschedulable", expected)]

        await eventually(condition)
        await create_node(client, "large", cpu="8")

        async def bound() -> bool:
            return (await get_pod(client, "big")).spec.node_name == "large"

        await eventually(bound)


async def test_gates_hold_a_pod() -> None:
    async with scheduling() as client:
        await create_node(client, "n1")
        await create_pod(client, "gated", schedulingGates=[{"name": "example.com/wait"}])
        await create_pod(client, "free")

        async def free_bound() -> bool:
            return bool((await get_pod(client, "free")).spec.node_name)

        await eventually(free_bound)
        assert not (await get_pod(client, "gated")).spec.node_name
        gates = [{"$patch": "delete", "name": "example.com/wait"}]
        patch = {"spec": {"schedulingGates": gates}}
        await client.patch(Pod, ObjectName("default", "gated"), patch, patch_type=PatchType.STRATEGIC)

        async def gated_bound() -> bool:
            return bool((await get_pod(client, "gated")).spec.node_name)

        await eventually(gated_bound)


async def test_preemption_spares_what_a_budget_protects() -> None:
    async with scheduling() as client:
        for node in ("n1", "n2"):
            await create_node(client, node, cpu="1")
        budget = {
            "metadata": {"name": "b", "namespace": "default"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "protected"}}},
        }
        await client.create(msgspec.convert(budget, PodDisruptionBudget))
        await create_pod(client, "protected", {"cpu": "900m"}, priority=0, labels={"app": "protected"})
        await create_pod(client, "other", {"cpu": "900m"}, priority=0)

        async def both_bound() -> bool:
            return all([(await get_pod(client, name)).spec.node_name for name in ("protected", "other")])

        await eventually(both_bound)
        freed = (await get_pod(client, "other")).spec.node_name
        await create_pod(client, "important", {"cpu": "500m"}, priority=1000)

        async def evicted() -> bool:
            try:
                other = await get_pod(client, "other")
            except NotFoundError:
                return True
            if other.metadata.deletion_timestamp is not None:
                # No kubelet here: end the pod as one would.
                await client.delete(Pod, ObjectName("default", "other"), grace_period_seconds=0)
            return False

        await eventually(evicted)

        async def bound() -> bool:
            return (await get_pod(client, "important")).spec.node_name == freed

        await eventually(bound)
        assert (await get_pod(client, "protected")).metadata.deletion_timestamp is None
        told = await messages(client, "other", "Preempted")
        assert len(told) == 1
        assert told[0].startswith("Preempted by pod ")
        assert told[0].endswith(f" on node {freed}")


async def test_room_made_by_preemption_is_kept_while_victims_take_their_time() -> None:
    async with scheduling() as client:
        await create_node(client, "n1", cpu="1")
        await create_node(client, "tainted", taints=[{"key": "gpu", "value": "true", "effect": "NoSchedule"}])
        for name in ("quick", "slow"):
            await create_pod(client, name, {"cpu": "500m"}, priority=1)

        async def both_bound() -> bool:
            return all([(await get_pod(client, name)).spec.node_name for name in ("quick", "slow")])

        await eventually(both_bound)
        await create_pod(client, "important", {"cpu": "800m"}, priority=1000)

        async def evicted() -> bool:
            return all([(await get_pod(client, name)).metadata.deletion_timestamp for name in ("quick", "slow")])

        await eventually(evicted)
        # One victim is gone, the other is not: the important pod is tried again, in vain, and keeps its claim.
        await client.delete(Pod, ObjectName("default", "quick"), grace_period_seconds=0)
        refused = "preemption: not eligible due to a terminating pod on the nominated node."

        async def tried_again() -> bool:
            return any(one.endswith(refused) for one in await messages(client, "important", "FailedScheduling"))

        await eventually(tried_again)
        await create_pod(client, "cuckoo", {"cpu": "500m"}, priority=1)
        expected = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: true}."

        async def waits() -> bool:
            return any(one.startswith(expected) for one in await messages(client, "cuckoo", "FailedScheduling"))

        await eventually(waits)
        assert (await get_pod(client, "important")).status.nominated_node_name == "n1"
        await client.delete(Pod, ObjectName("default", "slow"), grace_period_seconds=0)

        async def bound() -> bool:
            return (await get_pod(client, "important")).spec.node_name == "n1"

        await eventually(bound)
        assert not (await get_pod(client, "cuckoo")).spec.node_name


async def test_another_schedulers_pods_are_left_alone() -> None:
    async with scheduling() as client:
        await create_node(client, "n1")
        await create_pod(client, "theirs", schedulerName="other")
        await create_pod(client, "ours")

        async def bound() -> bool:
            return bool((await get_pod(client, "ours")).spec.node_name)

        await eventually(bound)
        assert not (await get_pod(client, "theirs")).spec.node_name


async def test_a_volume_is_bound_where_the_pod_goes() -> None:
    """The test stands in for the PV controller: it completes the binding that the scheduler has begun."""
    async with scheduling() as client:
        for node in ("n1", "n2"):
            await create_node(client, node)
        await client.create(
            msgspec.convert(
                {
                    "metadata": {"name": "local"},
                    "provisioner": "kubernetes.io/no-provisioner",
                    "volumeBindingMode": "WaitForFirstConsumer",
                },
                StorageClass,
            )
        )
        on_n2 = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}
        common = {"accessModes": ["ReadWriteOnce"], "storageClassName": "local"}
        volume = {
            "metadata": {"name": "v"},
            "spec": {
                **common,
                "capacity": {"storage": "1Gi"},
                "local": {"path": "/mnt"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_n2]}]}},
            },
        }
        await client.create(msgspec.convert(volume, PersistentVolume))
        available = {"status": {"phase": "Available"}}
        await client.patch(PersistentVolume, ObjectName("", "v"), available, subresource="status")
        claim = {
            "metadata": {"name": "x", "namespace": "default"},
            "spec": {**common, "resources": {"requests": {"storage": "1Gi"}}},
        }
        await client.create(msgspec.convert(claim, PersistentVolumeClaim))
        await create_pod(client, "p", volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "x"}}])

        async def claimed() -> bool:
            reference = (await client.get(PersistentVolume, ObjectName("", "v"))).spec.claim_ref
            return reference is not None and reference.name == "x"

        await eventually(claimed)
        assert not (await get_pod(client, "p")).spec.node_name
        completed = {
            "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": "v"},
        }
        await client.patch(PersistentVolumeClaim, ObjectName("default", "x"), completed)

        async def bound() -> bool:
            return (await get_pod(client, "p")).spec.node_name == "n2"

        await eventually(bound)


async def test_metrics_have_the_names_dashboards_know() -> None:
    async with scheduling() as client:
        await create_node(client, "n1", cpu="1")
        await create_pod(client, "small", {"cpu": "500m"})
        await create_pod(client, "large", {"cpu": "2"})

        async def decided() -> bool:
            told = await messages(client, "large", "FailedScheduling")
            return bool((await get_pod(client, "small")).spec.node_name and told)

        await eventually(decided)
    shown = REGISTRY.expose().decode()
    profile = 'profile="default-scheduler"'
    for series in (
        f'scheduler_schedule_attempts_total{{{profile},result="scheduled"}}',
        f'scheduler_schedule_attempts_total{{{profile},result="unschedulable"}}',
        f'scheduler_framework_extension_point_duration_seconds_count{{extension_point="Bind",status="Success",{profile}}}',
        'scheduler_queue_incoming_pods_total{queue="active",event="PodAdd"}',
        'scheduler_queue_incoming_pods_total{queue="unschedulable",event="ScheduleAttemptFailure"}',
        'scheduler_pending_pods{queue="active"}',
        'scheduler_cache_size{type="nodes"}',
        "scheduler_scheduling_algorithm_duration_seconds_count",
        "scheduler_pod_scheduling_attempts_count",
    ):
        assert f"{series} " in shown, series
