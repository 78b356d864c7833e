"""Cluster IPs and node ports: nobody gets what another has, and everything comes back."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tiphys.apiserver.registry.core.service_addresses import ClusterAddresses
from tiphys.apiserver.registry.core.service_allocation import ServiceAllocation
from tiphys.apiserver.registry.core.service_ports import NodePorts
from tiphys.machinery.errors import InvalidError, already_exists
from tiphys.machinery.meta import GroupResource
from tiphys.store import MemoryStore

Object = dict[str, Any]


class Book:
    """IPAddress objects in a dict."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}

    def get(self, address: str) -> Object | None:
        return self.objects.get(address)

    async def create(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        if name in self.objects:
            raise already_exists(GroupResource("networking.k8s.io", "ipaddresses"), name)
        self.objects[name] = obj

    async def delete(self, address: str) -> None:
        self.objects.pop(address, None)


class Cluster:
    """An allocation over a small range, with what it has given away."""

    def __init__(self, store: MemoryStore) -> None:
        self.book = Book()
        rng = random.Random(1)
        networks = [ipaddress.ip_network("10.96.0.0/24")]
        self.ports = NodePorts(store, 30000, 30003, rng)
        self.allocation = ServiceAllocation(ClusterAddresses(self.book, lambda: networks, rng), self.ports)

    async def create(self, name: str = "s", **spec: Any) -> Object:
        service = service_of(name, **spec)
        finish = await self.allocation.on_create(service, dry_run=False)
        finish(True)
        return service


def service_of(name: str, **spec: Any) -> Object:
    ports = [{"port": 80, "protocol": "TCP"}]
    return {
        "metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"type": "ClusterIP", "ports": ports, "selector": {"a": "b"}, **spec},
    }


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    store = MemoryStore()
    yield Cluster(store)
    await store.close()


def message(error: InvalidError) -> str:
    return error.message.partition(" is invalid: ")[2]


async def test_a_service_gets_an_address_of_the_upper_band(cluster: Cluster) -> None:
    service = await cluster.create()
    address = service["spec"]["clusterIP"]
    assert ipaddress.ip_address(address) > ipaddress.ip_address("10.96.0.16")
    assert service["spec"]["clusterIPs"] == [address]
    assert service["spec"]["ipFamilies"] == ["IPv4"]
    assert service["spec"]["ipFamilyPolicy"] == "SingleStack"
    assert cluster.book.objects[address]["spec"]["parentRef"] == {"resource": "services", "namespace": "n", "name": "s"}


async def test_an_address_is_given_once_and_again_after_its_service_is_gone(cluster: Cluster) -> None:
    wanted = {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}
    first = await cluster.create("a", **wanted)
    with pytest.raises(InvalidError) as refused:
        await cluster.create("b", **wanted)
    assert message(refused.value) == (
        'spec.clusterIPs: Invalid value: ["10.96.0.7"]: failed to allocate IP 10.96.0.7: '
        "provided IP is already allocated"
    )
    cluster.allocation.on_delete(first)
    await cluster.create("b", **wanted)


@pytest.mark.parametrize("address", ["10.96.0.0", "10.96.0.255", "10.97.0.1"])
async def test_an_address_outside_the_range_is_refused(cluster: Cluster, address: str) -> None:
    with pytest.raises(InvalidError, match="the provided network does not match the current range"):
        await cluster.create(clusterIP=address, clusterIPs=[address])


async def test_what_a_refused_write_claimed_comes_back(cluster: Cluster) -> None:
    service = service_of("a", type="NodePort")
    finish = await cluster.allocation.on_create(service, dry_run=False)
    finish(False)
    await cluster.allocation.drain()
    assert cluster.book.objects == {}
    assert await cluster.ports.claimed() == {}


async def test_a_dry_run_claims_nothing(cluster: Cluster) -> None:
    service = service_of("a", type="NodePort")
    finish = await cluster.allocation.on_create(service, dry_run=True)
    finish(True)
    assert service["spec"]["clusterIP"] and service["spec"]["ports"][0]["nodePort"]
    assert cluster.book.objects == {}
    assert await cluster.ports.claimed() == {}


async def test_headless_services_get_no_address(cluster: Cluster) -> None:
    service = await cluster.create(clusterIP="None", clusterIPs=["None"], selector=None)
    assert service["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    assert service["spec"]["ipFamilyPolicy"] == "RequireDualStack"
    assert cluster.book.objects == {}


async def test_one_node_port_serves_several_protocols_of_a_service(cluster: Cluster) -> None:
    ports = [{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]
    service = await cluster.create(type="NodePort", ports=ports)
    first, second = service["spec"]["ports"]
    assert first["nodePort"] == second["nodePort"]


async def test_a_node_port_belongs_to_one_service(cluster: Cluster) -> None:
    await cluster.create("a", type="NodePort", ports=[{"port": 80, "protocol": "TCP", "nodePort": 30001}])
    with pytest.raises(InvalidError) as refused:
        await cluster.create("b", type="NodePort", ports=[{"port": 80, "protocol": "TCP", "nodePort": 30001}])
    assert message(refused.value) == "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
    assert len(cluster.book.objects) == 2  # the refused one's address waits to be given back
    await cluster.allocation.drain()
    assert len(cluster.book.objects) == 1


async def test_node_ports_run_out(cluster: Cluster) -> None:
    for name in "abcd":
        await cluster.create(name, type="NodePort")
    with pytest.raises(InvalidError, match="range is full"):
        await cluster.create("e", type="NodePort")


async def test_a_change_of_type_gives_the_node_port_back(cluster: Cluster) -> None:
    old = await cluster.create("a", type="NodePort")
    new = service_of("a", clusterIP=old["spec"]["clusterIP"], clusterIPs=old["spec"]["clusterIPs"])
    finish = await cluster.allocation.on_update(new, old, dry_run=False)
    finish(True)
    await cluster.allocation.drain()
    assert await cluster.ports.claimed() == {}
    assert list(cluster.book.objects) == old["spec"]["clusterIPs"]
