"""Endpoints and EndpointSlices: readiness, termination, ports, hostnames, limits, mirroring, faults."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.controllers.harness import PODS, World, pod
from tiphys.controllers.common.context import Options
from tiphys.controllers.endpointslice import (
    EndpointsController,
    EndpointSliceController,
    EndpointSliceMirroringController,
)

SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
ENDPOINTS = "/api/v1/endpoints"


def service(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "s", "namespace": "default", "labels": {"team": "x"}},
        "spec": {
            "selector": {"app": "a"},
            "clusterIP": "10.96.0.10",
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
            **spec,
        },
    }


def backend(name: str, ip: str, ready: bool = True, **extra: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    made = pod(name, podIP=ip, podIPs=[{"ip": ip}], conditions=[condition])
    made["spec"].update(extra)
    return made


def endpoints(world: World) -> dict[str, tuple[bool, bool, bool]]:
    found = {}
    for one in world.api.list(SLICES):
        for endpoint in one.get("endpoints", []):
            conditions = endpoint["conditions"]
            found[endpoint["addresses"][0]] = (
                conditions["ready"],
                conditions.get("serving", False),
                conditions.get("terminating", False),
            )
    return found


async def test_a_slice_names_the_pods_and_their_condition() -> None:
    world = World()
    world.api.put(SERVICES, service())
    world.api.put(PODS, backend("a", "10.244.0.1"))
    world.api.put(PODS, backend("b", "10.244.0.2", ready=False))
    world.api.put(PODS, backend("other", "10.244.0.3") | {"metadata": {"name": "other", "namespace": "default"}})
    async with world.running(EndpointSliceController, EndpointsController, kubelet=False):
        await world.settle()
        assert endpoints(world) == {"10.244.0.1": (True, True, False), "10.244.0.2": (False, False, False)}
        (one,) = world.api.list(SLICES)
        assert one["metadata"]["labels"] == {
            "team": "x",
            "kubernetes.io/service-name": "s",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }
        assert one["metadata"]["generateName"] == "s-"
        assert one["addressType"] == "IPv4"
        assert one["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
        assert one["endpoints"][0]["targetRef"]["name"] == "a"
        (old,) = world.api.list(ENDPOINTS)
        (subset,) = old["subsets"]
        assert [address["ip"] for address in subset["addresses"]] == ["10.244.0.1"]
        assert [address["ip"] for address in subset["notReadyAddresses"]] == ["10.244.0.2"]
        going = {"deletionTimestamp": "2024-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}
        world.api.change(PODS, "default", "a", {"metadata": going})
        await world.settle()
        assert endpoints(world)["10.244.0.1"] == (False, True, True)
        world.api.remove(PODS, "default", "a")
        world.api.remove(PODS, "default", "b")
        await world.settle()
        (one,) = world.api.list(SLICES)
        assert one.get("endpoints", []) == []
        world.api.remove(SERVICES, "default", "s")
        await world.settle()
    assert world.api.list(ENDPOINTS) == []


async def test_named_ports_are_looked_up_in_each_pod() -> None:
    world = World()
    world.api.put(SERVICES, service(ports=[{"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"}]))
    for name, ip, number in (("a", "10.244.0.1", 8080), ("b", "10.244.0.2", 9090)):
        container = {"name": "c", "ports": [{"name": "http", "containerPort": number}]}
        world.api.put(PODS, backend(name, ip, containers=[container]))
    async with world.running(EndpointSliceController, kubelet=False):
        await world.settle()
    assert sorted(one["ports"][0]["port"] for one in world.api.list(SLICES)) == [8080, 9090]


async def test_headless_pods_have_hostnames_and_unready_ones_can_be_published() -> None:
    world = World()
    world.api.put(SERVICES, service(clusterIP="None", publishNotReadyAddresses=True))
    world.api.put(PODS, backend("a", "10.244.0.1", ready=False, hostname="a", subdomain="s"))
    async with world.running(EndpointSliceController, kubelet=False):
        await world.settle()
    (one,) = world.api.list(SLICES)
    assert one["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    assert one["endpoints"][0]["hostname"] == "a"
    assert endpoints(world) == {"10.244.0.1": (True, False, False)}


async def test_slices_hold_no_more_than_their_limit_and_few_are_written_for_one_change() -> None:
    world = World(options=Options(max_endpoints_per_slice=5))
    world.api.put(SERVICES, service())
    for i in range(12):
        world.api.put(PODS, backend(f"p{i}", f"10.244.0.{i + 1}"))
    async with world.running(EndpointSliceController, kubelet=False):
        await world.settle()
        assert sorted(len(one["endpoints"]) for one in world.api.list(SLICES)) == [2, 5, 5]
        world.api.writes.clear()
        world.api.put(PODS, backend("new", "10.244.1.1"))
        await world.settle()
        assert len(world.api.writes) == 1
    assert sorted(len(one["endpoints"]) for one in world.api.list(SLICES)) == [3, 5, 5]


async def test_endpoints_written_by_users_are_mirrored_for_services_without_a_selector() -> None:
    world = World()
    world.api.put(SERVICES, service(selector={}))
    subsets = [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "ports": [{"port": 80, "protocol": "TCP"}]}]
    world.api.put(ENDPOINTS, {"metadata": {"name": "s", "namespace": "default"}, "subsets": subsets})
    async with world.running(EndpointSliceMirroringController, kubelet=False):
        await world.settle()
        assert sorted(one["addressType"] for one in world.api.list(SLICES)) == ["IPv4", "IPv6"]
        managed = {
            one["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] for one in world.api.list(SLICES)
        }
        assert managed == {"endpointslicemirroring-controller.k8s.io"}
        world.api.remove(ENDPOINTS, "default", "s")
        await world.settle()
    assert world.api.list(SLICES) == []


@pytest.mark.parametrize("seed", range(5))
async def test_slices_end_equal_to_the_pods_through_faults(seed: int) -> None:
    world = World(faults=seed, options=Options(max_endpoints_per_slice=4))
    world.api.put(SERVICES, service())
    async with world.running(EndpointSliceController, EndpointsController, kubelet=False):
        for i in range(20):
            world.api.put(PODS, backend(f"p{i}", f"10.244.0.{i + 1}"))
            await world.clock.advance(0.5)
        for i in range(0, 20, 2):
            world.api.remove(PODS, "default", f"p{i}")
            await world.clock.advance(0.5)
    async with world.running(EndpointSliceController, EndpointsController, kubelet=False):
        await world.pass_time(5)
        world.faulty.heal()
        await world.settle(seconds=120, step=1)
    wanted = [f"10.244.0.{i + 1}" for i in range(1, 20, 2)]
    assert sorted(endpoints(world)) == sorted(wanted)
    total = sum(len(one.get("endpoints", [])) for one in world.api.list(SLICES))
    assert total == len(wanted)
    (old,) = world.api.list(ENDPOINTS)
    assert sorted(address["ip"] for address in old["subsets"][0]["addresses"]) == sorted(wanted)
