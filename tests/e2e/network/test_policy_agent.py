"""The policy agent in a node's namespace: objects change in the caches, packets follow; new pods wait; kills."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.netlab import Background, Lab, ask, lab, path, run_in, sh
from tests.unit.network.policy.world import pod, policy
from tiphys.api.core.v1 import Namespace, Pod, PodStatus
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.networking.v1 import NetworkPolicy
from tiphys.client import SharedInformer
from tiphys.machinery.meta import ObjectName
from tiphys.network.cni import NetworkError, PodInterface, PodNetwork, PodNetworks
from tiphys.network.policy import agent as agents
from tiphys.network.policy import gate
from tiphys.network.policy.agent import PolicyAgent
from tiphys.network.subnet import Subnet

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

A, B = "10.244.1.2", "10.244.1.3"


class Caches:
    """What `Informers` gives, filled by hand in the agent's loop."""

    def __init__(self) -> None:
        self.known: dict[type, SharedInformer[Any]] = {}

    def of(self, kind: type, **_: str) -> SharedInformer[Any]:
        if kind not in self.known:
            self.known[kind] = SharedInformer(kind.__name__)
        return self.known[kind]


class Site:
    """A node whose agent can be started again; pods are connected by our CNI plugin."""

    def __init__(self, made: Lab, directory: Path) -> None:
        self.lab = made
        self.directory = directory
        self.node = made.netns("node")
        self.pods: list[Pod] = []
        self.policies: list[NetworkPolicy] = []
        self.agent: PolicyAgent | None = None
        self.background: Background | None = None
        self.version = 1
        Subnet(cidrs=("10.244.1.0/24",), mtu=1400, cluster_cidr="10.244.0.0/16").write(directory / "subnet.json")

    def start(self) -> None:
        self.agent = None
        self.caches = Caches()

        async def work() -> None:
            self.agent = PolicyAgent(
                self.caches,  # type: ignore[arg-type]
                "n1",
                socket=self.directory / gate.SOCKET_NAME,
                addresses=self.directory / "state/addresses",
            )
            self.fill()
            await self.agent.run()

        self.background = Background(self.node, work)
        self.until(lambda: self.agent is not None and self.agent.ready.is_set())

    def stop(self) -> None:
        if self.background is not None:
            self.background.stop()
            self.background = None

    def fill(self) -> None:
        self.version += 1
        spaces = [Namespace(metadata=ObjectMeta(name="x", uid="x", resource_version="1"))]
        for kind, objects in ((Namespace, spaces), (Pod, self.pods), (NetworkPolicy, self.policies)):
            self.caches.of(kind).replace([self._stamped(each) for each in objects], str(self.version))

    def _stamped(self, made: Any) -> Any:
        """With a new revision: a cache passes over what has the revision it knows."""
        metadata = msgspec.structs.replace(made.metadata, resource_version=str(self.version), uid=made.metadata.name)
        return msgspec.structs.replace(made, metadata=metadata)

    def change(self, pods: list[Pod] | None = None, policies: list[NetworkPolicy] | None = None) -> None:
        self.pods = self.pods if pods is None else pods
        self.policies = self.policies if policies is None else policies
        if self.background is not None:
            self.background.call(self.fill)

    def connect(self, name: str) -> PodInterface:
        """ADD, as a runtime calls it."""
        netns = self.lab.netns(name)

        async def work() -> PodInterface:
            networks = PodNetworks(subnet_file=self.directory / "subnet.json", state=self.directory / "state")
            try:
                wanted = PodNetwork(sandbox_id=netns, netns_path=path(netns), name=name, namespace="x")
                return await networks.add(wanted)
            finally:
                networks.close()

        return run_in(self.node, work)

    def reach(self, source: str, address: str) -> bool:
        return ask(f"{self.lab.prefix}-{source}", address, 80, timeout=0.4) not in ("timeout", "refused")

    @staticmethod
    def until(condition: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with lab() as made:
        found = Site(made, tmp_path)
        try:
            yield found
        finally:
            found.stop()


def waiting(name: str, **labels: str) -> Pod:
    """A pod of the node that has no address in its status yet."""
    made = pod("x", name, "", labels, node="n1", phase="Pending")
    return msgspec.structs.replace(made, status=PodStatus(phase="Pending"))


def allow(app: str) -> NetworkPolicy:
    return policy("x", "allow", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}])


def test_a_pod_is_judged_before_it_runs_and_follows_changes(site: Site) -> None:
    site.pods = [waiting("a"), waiting("b", app="good")]
    site.policies = [policy("x", "deny")]
    site.start()
    assert site.connect("a").ips == (A,)
    assert A in sh("nft list map inet tiphys-policy ingress4", site.node)
    site.connect("b")
    site.lab.serve(f"{site.lab.prefix}-a", 80, "a")
    assert not site.reach("b", A)
    assert site.reach("node", A)
    site.change(policies=[policy("x", "deny"), allow("good")])
    site.until(lambda: site.reach("b", A))
    site.change(pods=[waiting("a"), waiting("b", app="bad")])
    site.until(lambda: not site.reach("b", A))
    site.change(policies=[])
    site.until(lambda: site.reach("b", A))
    site.until(lambda: sh("nft list table inet tiphys-policy", site.node).count("chain") == 6)


def test_while_the_agent_is_away_rules_stay_and_new_pods_wait(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pods = [waiting("a"), waiting("b"), waiting("c")]
    site.policies = [policy("x", "deny")]
    site.start()
    site.connect("a")
    site.connect("b")
    site.lab.serve(f"{site.lab.prefix}-a", 80, "a")
    site.stop()
    assert not site.reach("b", A)
    monkeypatch.setattr(gate.wait_admitted, "__defaults__", (0.5,))
    with pytest.raises(NetworkError, match="network policies of the pod are not in force"):
        site.connect("c")
    assert sorted(each.name for each in (site.directory / "state/addresses").glob("10.*")) == [A, B]
    # Started again it knows addresses that no status tells yet.
    site.start()
    assert not site.reach("b", A)
    site.change(policies=[])
    site.until(lambda: site.reach("b", A))


def test_meddling_is_repaired(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "VERIFY", 0.1)
    site.pods = [waiting("a"), waiting("b")]
    site.policies = [policy("x", "deny")]
    site.start()
    site.connect("a")
    site.connect("b")
    site.lab.serve(f"{site.lab.prefix}-a", 80, "a")
    for meddling in (
        "nft flush table inet tiphys-policy",
        "nft delete table inet tiphys-policy",
        "nft flush map inet tiphys-policy ingress4",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
    ):
        sh(meddling, site.node)
        site.until(lambda: not site.reach("b", A))
    sh("nft flush map inet tiphys-policy ingress4", site.node)
    site.change(pods=[waiting("a"), waiting("b", app="other")], policies=[allow("other")])
    site.until(lambda: site.reach("b", A))


def test_an_address_given_again_is_judged_as_its_new_owner(site: Site) -> None:
    site.pods = [pod("x", "old", A, {"app": "old"}, node="n1"), waiting("new", app="new")]
    site.policies = [policy("x", "deny", pod_selector={"matchLabels": {"app": "old"}})]
    site.start()
    assert A in sh("nft list map inet tiphys-policy ingress4", site.node)
    # The old pod's status still names the address when the new one gets it.
    assert site.connect("new").ips == (A,)
    assert A not in sh("nft list map inet tiphys-policy ingress4", site.node)
    site.change()
    site.change(policies=[policy("x", "deny", pod_selector={"matchLabels": {"app": "new"}})])
    site.until(lambda: A in sh("nft list map inet tiphys-policy ingress4", site.node))


def test_a_pod_the_api_does_not_have_yet_gets_what_needs_no_label(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "UNKNOWN_POD", 0.1)
    site.policies = [policy("x", "deny")]
    site.start()
    site.connect("static")
    assert A in sh("nft list map inet tiphys-policy ingress4", site.node)


def test_the_gate_understands_no_nonsense(tmp_path: Path) -> None:
    async def work() -> None:
        seen: list[ObjectName] = []

        async def admit(name: ObjectName, ips: tuple[str, ...]) -> None:
            seen.append(name)

        socket = tmp_path / "s"
        await gate.wait_admitted(socket, "id", ObjectName("x", "a"), ("10.0.0.1",))
        assert seen == []
        server = await gate.serve(socket, admit)
        try:
            for nonsense in (b"{}\n", b"garbage\n", b"\n", b'{"pod": 5}\n'):
                reader, writer = await asyncio.open_unix_connection(str(socket))
                writer.write(nonsense)
                assert await reader.readline() == b""
                writer.close()
            await gate.wait_admitted(socket, "id", ObjectName("x", "a"), ("10.0.0.1",))
            assert seen == [ObjectName("x", "a")]
        finally:
            server.close()
        with pytest.raises(gate.NotAdmittedError):
            await gate.wait_admitted(socket, "id", ObjectName("x", "a"), ("10.0.0.1",), 0.2)

    asyncio.run(work())
