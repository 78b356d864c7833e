"""Somebody changes the rules just before or after the proxy writes its own: the next look finds it all the same."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.e2e.netlab import lab, run_in, sh
from tiphys.base.nft import AsyncNft
from tiphys.proxy.config import IPTABLES, NFTABLES, ProxyConfig
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort
from tiphys.proxy.rules import RuleWriter
from tiphys.proxy.writers import writers

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MEDDLING = {NFTABLES: "nft flush map ip kube-proxy service-ips", IPTABLES: "iptables -t nat -F PREROUTING"}


class Busy(AsyncNft):
    """Whoever asks for the generation has been preceded by `meddle`, once."""

    meddle: Callable[[], object] | None = None

    async def generation(self) -> int:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
        return await super().generation()


def want(writer: RuleWriter, name: str, ip: str) -> None:
    key = PortKey(ServiceKey("default", name), "", "tcp")
    service = ServicePort(key=key, cluster_ip=ip, port=80)
    writer.desired.set_service(service, Choice(cluster=(Endpoint(ip="10.244.1.2", port=80, is_local=True),)))


@pytest.mark.parametrize("mode", MEDDLING)
@pytest.mark.parametrize("when", ["before", "after"])
def test_it_is_repaired(mode: str, when: str) -> None:
    with lab() as made:
        node = made.netns("node")

        async def work() -> None:
            nft = Busy()
            try:
                writer = writers(nft, "ip", "10.244.0.0/16", ProxyConfig())[mode]
                await check(writer, nft, lambda: sh(MEDDLING[mode], node), when)
            finally:
                nft.close()

        run_in(node, work)


async def check(writer: RuleWriter, nft: Busy, meddle: Callable[[], object], when: str) -> None:
    await writer.start()
    want(writer, "one", "10.96.0.1")
    await writer.apply()
    assert not await writer.verify()
    want(writer, "two", "10.96.0.2")
    if when == "before":
        meddle()
    else:
        nft.meddle = meddle
    await writer.apply()
    if nft.meddle is not None:  # it did not ask
        nft.meddle = None
        meddle()
    assert await writer.verify()
    assert not await writer.verify()
