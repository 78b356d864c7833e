"""BGP of nodes whose addresses change: sessions and ways are those of the new one, and nothing of the old one stays.

The nodes of `test_backends_packets`, each with a whole agent, whose caches are filled by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.netlab import Background, ask, lab, sh
from tests.e2e.network.test_backends_packets import MTUS, NODES, Site
from tests.e2e.proxy.test_proxy_follows import Caches
from tiphys.api.core.v1 import ConfigMap, Node, NodeAddress, NodeSpec, NodeStatus
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.network.agent import CONFIG_MAP, NetworkAgent

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PATIENCE = 40.0
WITH_AND_WITHOUT_REFLECTOR = pytest.mark.parametrize("agents", [[], ["b"]], ids=["mesh", "reflector"], indirect=True)
ADDRESSES = {name: f"192.168.7.{number}" for name, number in NODES.items()}
NEW = {"b": "192.168.7.22", "c": "192.168.7.33"}
CIDRS = {name: f"10.244.{number}.0/24" for name, number in NODES.items()}


class Silent:
    """The client of an agent: what it announces goes nowhere."""

    async def patch(self, *_: Any, **__: Any) -> None: ...


class Agents:
    """One on every node of a site; `set` tells all of them where the nodes are."""

    def __init__(self, site: Site, directory: Path, reflectors: list[str]) -> None:
        self.site = site
        self.directory = directory
        self.reflectors = reflectors
        self.version = 0
        self.addresses = dict(ADDRESSES)
        self.caches: dict[str, Caches] = {}
        self.running: dict[str, Background] = {}
        for name in NODES:
            self.start(name)

    def start(self, name: str) -> None:
        self.caches[name] = Caches()
        self.running[name] = Background(self.site.netns(name), lambda: self._run(name))

    def stop(self, *names: str) -> None:
        for each in names or NODES:
            if each in self.running:
                self.running.pop(each).stop()

    def neighbors(self, name: str) -> list[str]:
        """Those a node has a session with."""
        others = [other for other in NODES if other != name]
        return [each for each in others if not self.reflectors or {name, each} & set(self.reflectors)]

    async def _run(self, name: str) -> None:
        caches = self.caches[name]
        agent = NetworkAgent(
            Silent(),  # type: ignore[arg-type]
            caches,  # type: ignore[arg-type]
            name,
            subnet_file=self.directory / name / "subnet.json",
            cluster_cidr="10.244.0.0/16",
            backend="bgp",
        )
        self._fill(name)
        await agent.run()

    def _fill(self, name: str) -> None:
        caches = self.caches[name]
        meta = ObjectMeta(name=CONFIG_MAP.name, namespace=CONFIG_MAP.namespace, uid="m", resource_version="1")
        settings = {"bgp.yaml": json.dumps({"routeReflectors": self.reflectors})}
        caches.of(ConfigMap).replace([ConfigMap(metadata=meta, data=settings)], str(self.version))
        caches.of(Node).replace([self._node(each) for each in NODES], str(self.version))

    def _node(self, name: str) -> Node:
        address = NodeAddress(type="InternalIP", address=self.addresses[name])
        return Node(
            metadata=ObjectMeta(name=name, uid=name, resource_version=str(self.version)),
            spec=NodeSpec(pod_cidr=CIDRS[name], pod_cidrs=(CIDRS[name],)),
            status=NodeStatus(addresses=(address,)),
        )

    def tell(self, name: str, address: str) -> None:
        """Every agent sees the node with this address."""
        self.version += 1
        self.addresses[name] = address
        for each, background in self.running.items():
            background.call(lambda each=each: self._fill(each))  # type: ignore[misc]  # a lambda's default

    def move(self, name: str, address: str) -> None:
        """The interface has this address, and not the one before."""
        netns = self.site.netns(name)
        sh("ip addr flush dev eth0", netns)
        sh(f"ip addr add {address}/24 dev eth0", netns)


@pytest.fixture
def agents(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Agents]:
    if shutil.which("bird") is None:
        pytest.skip("BIRD (Debian: bird2) is not installed")
    with lab() as made, contextlib.ExitStack() as stack:
        site = Site(made, tmp_path, MTUS["host-gw"])
        found = Agents(site, tmp_path, getattr(request, "param", []))
        stack.callback(found.stop)
        until(lambda: expect_ways(found))
        yield found


def until(check: Callable[[], None], patience: float = PATIENCE) -> None:
    """Until the check holds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def expect_ways(agents: Agents) -> None:
    """Every node has one way to every other, to where that is now, and the sessions it should have and no other."""
    for name in NODES:
        others = [other for other in NODES if other != name]
        found = json.loads(sh("ip -j route show proto bird", agents.site.netns(name)))
        routes = [(each["dst"], each.get("gateway")) for each in found]
        assert sorted(routes) == sorted((CIDRS[other], agents.addresses[other]) for other in others), name
        said = sh(f"birdc -s {agents.directory / name}/bird4/bird.ctl show protocols all")
        wanted = sorted(agents.addresses[other] for other in agents.neighbors(name))
        assert sorted(re.findall(r"Neighbor address: (\S+)", said)) == wanted
        assert len(re.findall(r"^node_.*Established", said, re.MULTILINE)) == len(wanted), said


def expect(agents: Agents) -> None:
    """Ways, and packets of every pod to every other."""
    until(lambda: expect_ways(agents))
    for source in NODES:
        for target, number in NODES.items():
            seen = ask(agents.site.netns(f"pod-{source}"), f"10.244.{number}.2", 80)
            assert seen == f"pod-{target} 10.244.{NODES[source]}.2"


@WITH_AND_WITHOUT_REFLECTOR
def test_a_node_gets_another_address(agents: Agents) -> None:
    agents.move("b", NEW["b"])
    agents.tell("b", NEW["b"])
    expect(agents)


def test_the_cluster_hears_of_it_before_the_node_has_it(agents: Agents) -> None:
    agents.tell("b", NEW["b"])
    time.sleep(1)  # it is tried, and there is no such address
    agents.move("b", NEW["b"])
    expect(agents)


def test_the_cluster_hears_of_it_long_after(agents: Agents) -> None:
    agents.move("c", NEW["c"])
    time.sleep(4)  # the sessions break
    agents.tell("c", NEW["c"])
    expect(agents)


@WITH_AND_WITHOUT_REFLECTOR
def test_it_happens_while_agents_are_away(agents: Agents) -> None:
    """As when a machine starts again with another address, and when others have not seen it go."""
    agents.stop("b", "c")
    agents.move("b", NEW["b"])
    agents.tell("b", NEW["b"])
    agents.start("b")
    agents.start("c")
    expect(agents)


def test_two_nodes_change_places(agents: Agents) -> None:
    for name in ("b", "c"):
        sh("ip addr flush dev eth0", agents.site.netns(name))
    for name, address in (("b", ADDRESSES["c"]), ("c", ADDRESSES["b"])):
        agents.move(name, address)
        agents.tell(name, address)
    expect(agents)
