"""Dynamic resource allocation with the real API server, controllers for claims, and the real scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.integration.client.server import api_server
from tests.integration.scheduler.test_scheduling import create_node, create_pod, eventually, get_pod, messages
from tiphys.api.core.v1 import Namespace, Node, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.resource.v1 import DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice
from tiphys.base.clock import SystemClock
from tiphys.base.tasks import Supervised
from tiphys.client import Client, EventRecorder, Informers
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.resourceclaim.controller import ResourceClaimController
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler import Scheduler

DRIVER = "gpu.example.com"


@asynccontextmanager
async def cluster() -> AsyncIterator[Client]:
    clock = SystemClock()
    async with api_server() as config, Client(config, "test/1.0") as client:
        await client.create(Namespace(metadata=ObjectMeta(name="default")))
        async with Client(config, "kube-scheduler/v1.36.2") as own, Supervised(clock) as tasks:
            informers = Informers(own)
            scheduler = Scheduler(own, informers)
            recorder = EventRecorder(own, clock, "resource_claim")
            context = ControllerContext(client=own, clock=clock, informers=informers, recorder=lambda _: recorder)
            controller = ResourceClaimController(context)
            tasks.spawn(scheduler.run, name="scheduler")
            tasks.spawn(controller.run, name="claims")
            tasks.spawn(recorder.run, name="events")
            tasks.spawn(informers.run, name="informers")
            yield client


async def create_class(client: Client, name: str = "gpu", *expressions: str, **spec: Any) -> None:
    selectors = [{"cel": {"expression": text}} for text in (f'device.driver == "{DRIVER}"', *expressions)]
    raw = {"metadata": {"name": name}, "spec": {"selectors": selectors, **spec}}
    await client.create(msgspec.convert(raw, DeviceClass))


async def create_slice(client: Client, node: str, *devices: dict[str, Any], **spec: Any) -> None:
    where = {"nodeName": node} if node else {"allNodes": True}
    pool = {"name": node or "shared", "generation": 1, "resourceSliceCount": 1}
    raw = {
        "metadata": {"name": f"{node or 'shared'}-{DRIVER}"},
        "spec": {"driver": DRIVER, "pool": pool, "devices": list(devices), **where, **spec},
    }
    await client.create(msgspec.convert(raw, ResourceSlice))


def gpu(name: str, memory: str = "10Gi", **attributes: Any) -> dict[str, Any]:
    kinds = {str: "string", bool: "bool", int: "int"}
    values = {key: {kinds[type(value)]: value} for key, value in attributes.items()}
    return {"name": name, "attributes": values, "capacity": {"memory": {"value": memory}}}


def exactly(name: str = "req", device_class: str = "gpu", **more: Any) -> dict[str, Any]:
    return {"name": name, "exactly": {"deviceClassName": device_class, **more}}


async def create_claim(client: Client, name: str, *requests: dict[str, Any], **devices: Any) -> None:
    raw = {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"devices": {"requests": list(requests), **devices}},
    }
    await client.create(msgspec.convert(raw, ResourceClaim))


async def pod_with(client: Client, name: str, *claims: str, template: str = "") -> None:
    wishes: list[dict[str, Any]] = [{"name": claim, "resourceClaimName": claim} for claim in claims]
    if template:
        wishes.append({"name": "made", "resourceClaimTemplateName": template})
    await create_pod(client, name, resourceClaims=wishes)


async def claim_of(client: Client, name: str) -> ResourceClaim:
    return await client.get(ResourceClaim, ObjectName("default", name))


def devices_of(claim: ResourceClaim) -> list[str]:
    allocation = claim.status.allocation
    assert allocation is not None and allocation.devices is not None
    return [f"{each.request}={each.device}" for each in allocation.devices.results]


async def placed(client: Client, *names: str) -> list[str]:
    found: list[str] = []

    async def bound() -> bool:
        found[:] = [(await get_pod(client, name)).spec.node_name for name in names]
        return all(found)

    await eventually(bound)
    return found


async def bound_of(client: Client, count: int) -> list[str]:
    """Which of p0, p1, … have a node."""
    return [f"p{n}" for n in range(count) if (await get_pod(client, f"p{n}")).spec.node_name]


async def test_pods_go_where_their_devices_are() -> None:
    async with cluster() as client:
        for node in ("n1", "n2", "n3"):
            await create_node(client, node)
        await create_class(client, config=[{"opaque": {"driver": DRIVER, "parameters": {"from": "class"}}}])
        await create_slice(client, "n2", gpu("a", model="small"), gpu("b", "40Gi", model="large"))
        large = f'device.attributes["{DRIVER}"].model == "large"'
        enough = f'device.capacity["{DRIVER}"].memory.compareTo(quantity("20Gi")) >= 0'
        selectors = [{"cel": {"expression": text}} for text in (large, enough)]
        said = {"requests": ["req"], "opaque": {"driver": DRIVER, "parameters": {"from": "claim"}}}
        await create_claim(client, "wants-large", exactly(selectors=selectors), config=[said])
        await pod_with(client, "p", "wants-large")
        assert await placed(client, "p") == ["n2"]
        claim = await claim_of(client, "wants-large")
        assert devices_of(claim) == ["req=b"]
        assert [user.name for user in claim.status.reserved_for] == ["p"]
        assert claim.metadata.finalizers == ("resource.kubernetes.io/delete-protection",)
        allocation = claim.status.allocation
        assert allocation is not None and allocation.node_selector is not None and allocation.devices is not None
        (term,) = allocation.node_selector.node_selector_terms
        assert [(each.key, each.values) for each in term.match_fields] == [("metadata.name", ("n2",))]
        assert [each.source for each in allocation.devices.config] == ["FromClass", "FromClaim"]
        # A second user of the claim goes to the same node.
        await pod_with(client, "q", "wants-large")
        assert await placed(client, "q") == ["n2"]


async def test_no_device_is_given_twice_and_freed_ones_are_given_again() -> None:
    async with cluster() as client:
        for node in ("n1", "n2"):
            await create_node(client, node)
            await create_slice(client, node, gpu("a"), gpu("b"))
        await create_class(client)
        raw = {
            "metadata": {"name": "one", "namespace": "default"},
            "spec": {"spec": {"devices": {"requests": [exactly()]}}},
        }
        await client.create(msgspec.convert(raw, ResourceClaimTemplate))
        for number in range(5):
            await pod_with(client, f"p{number}", template="one")

        async def four_bound() -> bool:
            return len(await bound_of(client, 5)) == 4

        await eventually(four_bound)
        claims = (await client.list(ResourceClaim, namespace="default")).items
        given = [
            (each.status.allocation.devices.results[0].pool, each.status.allocation.devices.results[0].device)
            for each in claims
            if each.status.allocation is not None and each.status.allocation.devices is not None
        ]
        assert sorted(given) == [("n1", "a"), ("n1", "b"), ("n2", "a"), ("n2", "b")]
        (waiting,) = {f"p{n}" for n in range(5)} - set(await bound_of(client, 5))

        async def told() -> bool:
            texts = await messages(client, waiting, "FailedScheduling")
            return any("2 cannot allocate all claims" in text for text in texts)

        await eventually(told)
        victim = "p0" if waiting != "p0" else "p1"
        pod = await get_pod(client, victim)
        await client.delete(type(pod), ObjectName("default", victim), grace_period_seconds=0)
        claim = pod.status.resource_claim_statuses[0].resource_claim_name
        # The garbage collector is not here: the claim goes with its pod.
        await client.delete(ResourceClaim, ObjectName("default", claim or ""))
        assert await placed(client, waiting)


async def test_preferences_constraints_and_all() -> None:
    async with cluster() as client:
        for node in ("n1", "n2"):
            await create_node(client, node)
        await create_slice(client, "n1", gpu("a", rack="r1"), gpu("b", rack="r2"), gpu("c", rack="r2"))
        await create_slice(client, "n2", gpu("a", rack="r1"))
        await create_class(client)
        same = [{"matchAttribute": f"{DRIVER}/rack"}]
        await create_claim(client, "pair", exactly(count=2), constraints=same)
        await pod_with(client, "pair", "pair")
        assert await placed(client, "pair") == ["n1"]
        assert devices_of(await claim_of(client, "pair")) == ["req=b", "req=c"]
        every = {"name": "all", "deviceClassName": "gpu", "allocationMode": "All"}
        three = {"name": "three", "deviceClassName": "gpu", "count": 3}
        await create_claim(client, "prefer", {"name": "req", "firstAvailable": [three, every]})
        await pod_with(client, "prefer", "prefer")
        assert await placed(client, "prefer") == ["n2"]
        assert devices_of(await claim_of(client, "prefer")) == ["req/all=a"]
        await create_claim(client, "missing", exactly(device_class="absent"))
        await pod_with(client, "missing", "missing")

        async def told() -> bool:
            texts = await messages(client, "missing", "FailedScheduling")
            return any("request req: device class absent does not exist" in text for text in texts)

        await eventually(told)


async def test_parts_of_devices() -> None:
    async with cluster() as client:
        await create_node(client, "n1")
        await create_class(client)
        whole = {"name": "whole", "consumesCounters": [{"counterSet": "card", "counters": {"slices": {"value": "2"}}}]}
        half = [{"counterSet": "card", "counters": {"slices": {"value": "1"}}}]
        halves = [{"name": f"half-{number}", "consumesCounters": half} for number in (1, 2)]
        pool = {"generation": 1, "resourceSliceCount": 2, "name": "n1"}
        shared = [{"name": "card", "counters": {"slices": {"value": "2"}}}]
        for name, parts in (("counters", {"sharedCounters": shared}), ("devices", {"devices": [*halves, whole]})):
            raw = {"metadata": {"name": name}, "spec": {"driver": DRIVER, "nodeName": "n1", "pool": pool, **parts}}
            await client.create(msgspec.convert(raw, ResourceSlice))
        for number in range(3):
            await create_claim(client, f"c{number}", exactly())
            await pod_with(client, f"p{number}", f"c{number}")

        async def two_bound() -> bool:
            return len(await bound_of(client, 3)) == 2

        await eventually(two_bound)
        given = [devices_of(each) for n in range(3) if (each := await claim_of(client, f"c{n}")).status.allocation]
        assert sorted(given) == [["req=half-1"], ["req=half-2"]]


async def tell(client: Client, claim: str, device: str, condition: str) -> None:
    """What a controller of devices says of one."""
    found = await claim_of(client, claim)
    now = "2026-01-01T00:00:00Z"
    said = {"type": condition, "status": "True", "reason": "Said", "message": "", "lastTransitionTime": now}
    allocation = found.status.allocation
    assert allocation is not None and allocation.devices is not None
    (result,) = allocation.devices.results
    status = {"driver": result.driver, "pool": result.pool, "device": device, "conditions": [said]}
    await client.patch(
        ResourceClaim, ObjectName("default", claim), {"status": {"devices": [status]}}, subresource="status"
    )


async def test_a_pod_is_bound_when_its_device_was_made_ready() -> None:
    """KEP-5007: a device of all nodes is attached to one; the first try fails, the second succeeds."""
    async with cluster() as client:
        await create_node(client, "n1")
        await create_class(client)
        conditions = {
            "bindsToNode": True,
            "bindingConditions": ["example.com/attached"],
            "bindingFailureConditions": ["example.com/broken"],
        }
        await create_slice(client, "", *({**gpu(name), **conditions} for name in ("a", "b")))
        await create_claim(client, "c", exactly())
        await pod_with(client, "p", "c")

        async def allocated() -> bool:
            return (await claim_of(client, "c")).status.allocation is not None

        await eventually(allocated)
        claim = await claim_of(client, "c")
        assert claim.status.allocation is not None and claim.status.allocation.node_selector is not None
        (term,) = claim.status.allocation.node_selector.node_selector_terms
        assert [(each.key, each.values) for each in term.match_fields] == [("metadata.name", ("n1",))]
        (first,) = devices_of(claim)
        assert not (await get_pod(client, "p")).spec.node_name
        await tell(client, "c", first.removeprefix("req="), "example.com/broken")
        before = claim.status.allocation.allocation_timestamp

        async def tried_again() -> bool:
            allocation = (await claim_of(client, "c")).status.allocation
            return allocation is not None and not (await claim_of(client, "c")).status.devices

        await eventually(tried_again)
        again = await claim_of(client, "c")
        assert again.status.allocation is not None and before is not None
        (second,) = devices_of(again)
        await tell(client, "c", second.removeprefix("req="), "example.com/attached")
        assert await placed(client, "p") == ["n1"]
        told = await messages(client, "p", "FailedScheduling")
        assert any("failed: example.com/broken" in text for text in told)


async def test_devices_serve_extended_resources_where_nodes_do_not_count_them() -> None:
    """KEP-5004: by the class's own name for it, and by the name that every class has."""
    async with cluster() as client:
        await create_class(client, "gpu", extendedResourceName="example.com/gpu")
        await create_node(client, "plain")
        await create_node(client, "drawn")
        await create_slice(client, "drawn", gpu("a"), gpu("b"), gpu("c"))
        limits = {"limits": {"example.com/gpu": "2"}}
        implicit = {"limits": {"deviceclass.resource.kubernetes.io/gpu": "1"}}
        containers = [
            {"name": "one", "image": "app", "resources": limits},
            {"name": "two", "image": "app", "resources": implicit},
        ]
        init = [{"name": "first", "image": "app", "resources": limits}]
        raw = {
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": containers, "initContainers": init},
        }
        await client.create(msgspec.convert(raw, Pod))
        assert await placed(client, "p") == ["drawn"]
        told = (await get_pod(client, "p")).status.extended_resource_claim_status
        assert told is not None
        assert [(each.container_name, each.request_name) for each in told.request_mappings] == [
            ("one", "container-1-request-0"),
            ("two", "container-2-request-0"),
            ("first", "container-1-request-0"),
        ]
        claim = await claim_of(client, told.resource_claim_name)
        assert sorted(devices_of(claim)) == [
            "container-1-request-0=a",
            "container-1-request-0=b",
            "container-2-request-0=c",
        ]
        assert [user.name for user in claim.status.reserved_for] == ["p"]
        # Nothing is left; a node that counts the resource itself serves the next.
        raw = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"containers": containers[:1]}}
        await client.create(msgspec.convert(raw, Pod))

        async def rejected() -> bool:
            return any("cannot allocate all claims" in text for text in await messages(client, "q", "FailedScheduling"))

        await eventually(rejected)
        plugin = {"example.com/gpu": "2", "cpu": "4", "memory": "8Gi", "pods": "110"}
        status = {"status": {"capacity": plugin, "allocatable": plugin}}
        await client.patch(Node, ObjectName("", "plain"), status, subresource="status")
        assert await placed(client, "q") == ["plain"]
        assert (await get_pod(client, "q")).status.extended_resource_claim_status is None
