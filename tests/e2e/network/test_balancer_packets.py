"""Addresses of load balancers on a wire: asked for by ARP, moved between nodes, translated by the proxy's rules."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.e2e.netlab import Background, ask, lab, sh
from tiphys.base.nft import AsyncNft
from tiphys.network.balancer.arp import ArpResponder
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort
from tiphys.proxy.nftables.applier import Applier
from tiphys.proxy.nftables.layout import Layout

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OUTSIDE, BALANCED = "192.168.9.9", "192.168.9.200"


def test_an_address_is_found_moves_and_keeps_the_source() -> None:
    with lab() as made:
        switch, outside = made.switch(), made.netns("out")
        made.plug(outside, switch, f"{OUTSIDE}/24")
        nodes, responders, background = [], {}, []
        for number in (1, 2):
            node = made.netns(f"n{number}")
            made.plug(node, switch, f"192.168.9.{number}/24")
            sh("sysctl -qw net.ipv4.ip_forward=1", node)
            pod = made.netns(f"p{number}")
            sh(f"ip link add eth0 netns {pod} type veth peer name v0 netns {node}")
            sh(f"ip addr add 10.244.{number}.1/24 dev v0", node)
            sh("ip link set v0 up", node)
            sh(f"ip addr add 10.244.{number}.2/24 dev eth0", pod)
            sh("ip link set eth0 up", pod)
            sh(f"ip route add default via 10.244.{number}.1", pod)
            made.serve(pod, 80, f"pod{number}")
            nodes.append(node)

            async def work(number: int = number) -> None:
                nft = AsyncNft()
                responder = responders[number] = ArpResponder("eth0")
                try:
                    applier = Applier(nft, Layout(cluster_cidr="10.244.0.0/16"))
                    await applier.start()
                    front = ServicePort(
                        key=PortKey(ServiceKey("x", "web"), "", "tcp"),
                        cluster_ip="10.96.0.50",
                        port=80,
                        load_balancer_ips=(BALANCED,),
                        external_local=True,
                    )
                    here = (Endpoint(ip=f"10.244.{number}.2", port=80, is_local=True),)
                    applier.desired.set_service(front, Choice(cluster=here, local=here, any_anywhere=True))
                    await applier.apply()
                    await asyncio.Event().wait()
                finally:
                    responder.close()
                    nft.close()

            background.append(Background(node, work))
        try:
            while len(responders) < 2 or "kube-proxy" not in sh("nft list tables", nodes[1]):
                pass
            assert ask(outside, BALANCED, 80, timeout=0.5) in ("timeout", "refused")  # nobody answers for it
            background[0].call(lambda: responders[1].answer_for({BALANCED}))
            sh("ip neigh flush all", outside)
            assert ask(outside, BALANCED, 80) == f"pod1 {OUTSIDE}"
            # The other takes over: its announcement alone moves the client.
            background[0].call(lambda: responders[1].answer_for(()))
            background[1].call(lambda: responders[2].answer_for({BALANCED}))
            answers = [ask(outside, BALANCED, 80) for _ in range(5)]
            assert answers[-1] == f"pod2 {OUTSIDE}"
        finally:
            for each in background:
                each.stop()
