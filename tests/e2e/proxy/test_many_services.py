"""More Services than go in one transaction of iptables: they come, stand a restart, change, and leave nothing."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.e2e.netlab import lab, run_in, sh
from tiphys.base.nft import AsyncNft
from tiphys.proxy.config import IPTABLES, ProxyConfig
from tiphys.proxy.iptables.state import CHAINS
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort
from tiphys.proxy.rules import RuleWriter
from tiphys.proxy.writers import writers

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("iptables-restore") is None, reason="no iptables on this machine"),
]
EACH = 10  # endpoints
SERVICES = 2 * CHAINS // EACH


def want(writer: RuleWriter, numbers: range, network: int) -> None:
    for number in numbers:
        key = PortKey(ServiceKey("default", f"s{number}"), "", "tcp")
        service = ServicePort(key=key, cluster_ip=f"10.96.{number // 250}.{number % 250 + 1}", port=80)
        ends = tuple(
            Endpoint(ip=f"10.{network}.{number // 250}.{number % 250}", port=80 + each) for each in range(EACH)
        )
        writer.desired.set_service(service, Choice(cluster=ends, any_anywhere=True))


def test_they_come_stand_a_restart_change_and_go() -> None:
    with lab() as made:
        node = made.netns("node")

        async def work() -> None:
            nft = AsyncNft()
            try:
                first = writers(nft, "ip", "10.244.0.0/16", ProxyConfig())[IPTABLES]
                assert not await first.start()
                want(first, range(SERVICES), 101)
                await first.apply()
                assert not await first.verify()

                again = writers(nft, "ip", "10.244.0.0/16", ProxyConfig())[IPTABLES]
                assert await again.start()
                want(again, range(SERVICES // 2), 102)  # the others went meanwhile
                await again.apply()
                assert not await again.verify()
                want(again, range(SERVICES), 103)  # all at once
                await again.apply()
                sh("iptables -t nat -F KUBE-MARK-MASQ", node)
                assert await again.verify()
                assert not await again.verify()
                await again.clean_up()
            finally:
                nft.close()

        run_in(node, work)
        assert "KUBE" not in sh("iptables-save", node)
