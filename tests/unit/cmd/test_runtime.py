"""The runtime's wiring: what a crash left of the network goes once, before another pod is connected."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from tiphys.cmd.runtime import NetworkOfPods
from tiphys.network.cni.model import NetworkError, Pod, PodInterface, Readiness
from tiphys.network.cni.setup import PodNetworks
from tiphys.runtime.network import PodNetwork


class Networks(PodNetworks):
    """Connects nothing; writes down what it is asked."""

    def __init__(self, *, ready: bool) -> None:
        super().__init__(subnet_file=Path("/nonexistent"), state=Path("/nonexistent"))
        self.ready = ready
        self.broken = False
        self.calls: list[str] = []

    def status(self) -> Readiness:
        return Readiness(self.ready)

    async def add(self, pod: Pod) -> PodInterface:
        self.calls.append(f"add {pod.sandbox_id}")
        return PodInterface(ips=("10.0.0.2",), interface="eth0")

    async def gc(self, valid_ids: Collection[str]) -> list[str]:
        self.calls.append(f"gc {' '.join(sorted(valid_ids))}")
        if self.broken:
            raise NetworkError("broken")
        return []


def pod(name: str) -> PodNetwork:
    return PodNetwork(sandbox_id=name, netns_path="/x", name=name, namespace="n", uid=name)


async def test_at_once_where_the_range_is_known() -> None:
    networks = Networks(ready=True)
    network = NetworkOfPods(networks)
    await network.recovered(frozenset({"old"}))
    await network.add(pod("new"))
    assert networks.calls == ["gc old", "add new"]


async def test_later_where_it_is_not() -> None:
    networks = Networks(ready=False)
    network = NetworkOfPods(networks)
    await network.recovered(frozenset({"old"}))
    networks.ready = True
    await network.add(pod("new"))
    await network.add(pod("newer"))
    assert networks.calls == ["gc new old", "add new", "add newer"]


async def test_not_before_the_living_are_known() -> None:
    networks = Networks(ready=True)
    network = NetworkOfPods(networks)
    await network.add(pod("early"))
    await network.recovered(frozenset({"old"}))
    assert networks.calls == ["add early", "gc early old"]


async def test_a_failure_is_told_and_passes(caplog: pytest.LogCaptureFixture) -> None:
    networks = Networks(ready=True)
    networks.broken = True
    network = NetworkOfPods(networks)
    await network.recovered(frozenset())
    await network.add(pod("new"))
    assert networks.calls == ["gc ", "add new"]
    assert "stays: broken" in caplog.text
