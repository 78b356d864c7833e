"""Our CNI plugin with real namespaces: connected, counted, taken away, also after being cut short."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.netlab import Lab, ask, lab, path, run_in, sh
from tiphys.network.cni import NetworkError, PodInterface, PodNetwork, PodNetworks, PortMapping
from tiphys.network.cni.bridge import host_interface
from tiphys.network.subnet import Subnet

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SUBNET = Subnet(cidrs=("10.244.1.0/24",), mtu=1400, cluster_cidr="10.244.0.0/16")


@pytest.fixture
def site() -> Iterator[Lab]:
    with lab() as made:
        yield made


def networks(directory: Path) -> PodNetworks:
    return PodNetworks(subnet_file=directory / "subnet.json", state=directory / "state")


def pod(name: str, netns: str, *ports: PortMapping) -> PodNetwork:
    return PodNetwork(
        sandbox_id=f"id-{name}", netns_path=path(netns), name=name, namespace="default", port_mappings=ports
    )


def links(node: str) -> list[str]:
    return sorted(line.split()[0].split("@")[0] for line in sh("ip -br link", node).splitlines() if line.strip())


def test_pods_reach_each_other_the_node_and_host_ports(site: Lab, tmp_path: Path) -> None:
    node, one, two = (site.netns(name) for name in ("node", "one", "two"))
    SUBNET.write(tmp_path / "subnet.json")
    ports = (PortMapping("tcp", 80, 8080), PortMapping("tcp", 80, 8081, "10.244.1.1"), PortMapping("udp", 53, 8080))

    async def connect() -> tuple[PodInterface, PodInterface]:
        network = networks(tmp_path)
        try:
            first = await network.add(pod("one", one))
            second = await network.add(pod("two", two, *ports))
            assert await network.add(pod("one", one)) == first
            await network.check(pod("one", one))
            return first, second
        finally:
            network.close()

    first, second = run_in(node, connect)
    assert (first.ips, second.ips) == (("10.244.1.2",), ("10.244.1.3",))
    assert first.gateway == "10.244.1.1"
    assert "mtu 1400" in sh("ip link show eth0", one)
    site.serve(two, 80, "two")
    site.serve(two, 53, "dns", udp=True)
    assert ask(one, "10.244.1.3", 80) == "two 10.244.1.2"
    assert ask(node, "10.244.1.3", 80) == "two 10.244.1.1"
    assert ask(one, "10.244.1.1", 8080) == "two 10.244.1.2"
    assert ask(two, "10.244.1.1", 8080) == "two 10.244.1.1"  # a pod through the node to itself
    assert ask(node, "127.0.0.1", 8080) == "two 10.244.1.1"
    assert ask(node, "10.244.1.1", 8081) == "two 10.244.1.1"
    assert ask(node, "127.0.0.1", 8081) == "refused"
    assert ask(one, "10.244.1.1", 8080, udp=True) == "dns 10.244.1.2"

    async def disconnect() -> None:
        network = networks(tmp_path)
        try:
            with pytest.raises(NetworkError, match="is missing, down or not in bridge"):
                await network.check(pod("absent", one))
            await asyncio.gather(network.delete(pod("one", "gone")), network.delete(pod("two", two)))
            await network.delete(pod("two", two))
        finally:
            network.close()

    run_in(node, disconnect)
    assert links(node) == ["lo", "tph0"]
    assert [each.name for each in (tmp_path / "state/addresses").iterdir()] == ["last_reserved_ip"]
    assert "8080" not in sh("nft list table ip tiphys-hostport", node)


def test_a_missing_namespace_leaves_nothing(site: Lab, tmp_path: Path) -> None:
    node = site.netns("node")
    SUBNET.write(tmp_path / "subnet.json")

    async def work() -> None:
        network = networks(tmp_path)
        try:
            with pytest.raises(NetworkError, match="failed to open netns"):
                await network.add(pod("one", "tph-test-nowhere"))
        finally:
            network.close()

    run_in(node, work)
    assert links(node) == ["lo", "tph0"]
    assert list((tmp_path / "state/addresses").glob("10.*")) == []


def test_addresses_run_out_with_a_clear_word(site: Lab, tmp_path: Path) -> None:
    node = site.netns("node")
    pods = [site.netns(f"p{number}") for number in range(6)]
    Subnet(cidrs=("10.244.1.0/29",)).write(tmp_path / "subnet.json")

    async def work() -> None:
        network = networks(tmp_path)
        try:
            for each in pods[:5]:
                await network.add(pod(each, each))
            with pytest.raises(NetworkError, match=r"no IP addresses available in range set: 10.244.1.2-10.244.1.6"):
                await network.add(pod(pods[5], pods[5]))
            await network.delete(pod(pods[0], pods[0]))
            assert (await network.add(pod(pods[5], pods[5]))).ips == ("10.244.1.2",)
        finally:
            network.close()

    run_in(node, work)


def test_not_ready_until_the_agent_has_written(site: Lab, tmp_path: Path) -> None:
    node, one = site.netns("node"), site.netns("one")

    async def work() -> None:
        network = networks(tmp_path)
        try:
            assert network.status().message == "Network plugin returns error: cni plugin not initialized"
            with pytest.raises(NetworkError, match="not initialized"):
                await network.add(pod("one", one))
            SUBNET.write(tmp_path / "subnet.json")
            assert network.status().ready
            await network.add(pod("one", one))
        finally:
            network.close()

    run_in(node, work)


KILLED = """
import asyncio, sys
from pathlib import Path
from tiphys.network.cni import PodNetwork, PodNetworks

async def main():
    directory = Path(sys.argv[1])
    network = PodNetworks(subnet_file=directory / "subnet.json", state=directory / "state")
    print("ready", flush=True)
    number = 0
    while True:
        for netns in sys.argv[2:]:
            pod = PodNetwork(sandbox_id=f"{netns}-{number}", netns_path=netns)
            await network.add(pod)
            print(pod.sandbox_id, flush=True)
            await network.delete(pod)
        number += 1

asyncio.run(main())
"""


def test_killed_in_the_middle_leaks_nothing_after_gc(site: Lab, tmp_path: Path) -> None:
    import subprocess

    node, one = site.netns("node"), site.netns("one")
    keep = site.netns("keep")
    SUBNET.write(tmp_path / "subnet.json")

    async def connect() -> None:
        network = networks(tmp_path)
        await network.add(pod("keep", keep))
        network.close()

    run_in(node, connect)
    for delay in (0.0, 0.003, 0.011, 0.017, 0.029):
        process = subprocess.Popen(
            ["ip", "netns", "exec", node, sys.executable, "-c", KILLED, str(tmp_path), path(one)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        time.sleep(delay)  # where it is hit is the point
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

        async def restarted() -> None:
            network = networks(tmp_path)
            try:
                await network.gc({"id-keep"})
                await network.check(pod("keep", keep))
            finally:
                network.close()

        run_in(node, restarted)
        assert links(node) == sorted(["lo", "tph0", host_interface("id-keep")])
        assert [each.name for each in (tmp_path / "state/addresses").glob("10.*")] == ["10.244.1.2"]
        assert "eth0" not in sh("ip -br link", one)
