"""BGP on a cluster: a router beside it, reflectors, a BIRD that is killed, and another back end while pods talk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster.harness import until
from tests.e2e.netlab import ask, sh
from tests.e2e.network.matrix.site import NODES, Site, site_of
from tests.e2e.network.rolling import MOVES, answers_while_rolling, failures

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes need root"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on this machine"),
    pytest.mark.skipif(shutil.which("bird") is None, reason="BIRD (Debian: bird2) is not installed"),
]

NAME = os.environ.get("TIPHYS_E2E_NAME", "e2e") + "-bgp"
PORT = str(int(os.environ.get("TIPHYS_E2E_PORT", "16600")) + 74)
BEYOND = "198.51.100.1"  # an address behind the router
ROUTER = """
log stderr all;
router id {own};
protocol device {{}}
protocol direct {{ ipv4; interface "eth0"; }}
protocol static {{ ipv4; route 198.51.100.0/24 unreachable; }}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; merge paths on; }}
template bgp node {{ local {own} as 64513; ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
  connect delay time 1; connect retry time 1; error wait time 1, 2; }}
{neighbors}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("router")
    with site_of(NAME, PORT, (4,), "--network", "bgp") as made:
        own = made.outside_ips[4]
        neighbors = "\n".join(
            f"protocol bgp from_{at} from node {{ neighbor {made.node_ips[at][4]} as 64512; }}" for at in NODES
        )
        (directory / "bird.conf").write_text(ROUTER.format(own=own, neighbors=neighbors))
        sh(f"ip addr add {BEYOND}/32 dev lo", made.outside)
        words = ["ip", "netns", "exec", made.outside, "bird", "-f", "-c", str(directory / "bird.conf"), "-s"]
        process = subprocess.Popen([*words, str(directory / "ctl")], stderr=subprocess.DEVNULL)
        try:
            yield made
        finally:
            process.kill()
            process.wait()


def configure(site: Site, backend: str = "bgp", **settings: object) -> None:
    """Replace the ConfigMap; the router is always a peer."""
    router = {"address": site.outside_ips[4], "asNumber": 64513, "imports": ["198.51.100.0/24"]}
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "tiphys-network", "namespace": "kube-system"},
        "data": {"backend": backend, "bgp.yaml": json.dumps({"peers": [router], **settings})},
    }
    site.cluster.apply(json.dumps(document))


def routes(netns: str) -> dict[str, set[str]]:
    """Destination → the gateways of a namespace's IPv4 routes."""
    found: dict[str, set[str]] = {}
    for each in json.loads(sh("ip -j route", netns)):
        hops = each.get("nexthops", [each])
        found.setdefault(each["dst"], set()).update(hop["gateway"] for hop in hops if "gateway" in hop)
    return found


def netns_of(site: Site, at: int) -> str:
    return f"tiphys-{site.cluster.name}-{site.node(at)}"


def service(site: Site, name: str, policy: str) -> str:
    """A Service of type LoadBalancer of a-1 and a-2; returns its address."""
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": {"app": "web"}}
    spec |= {"ports": [{"port": 80, "targetPort": 8080}]}  # type: ignore[dict-item]  # values of several types
    metadata = {"name": name, "namespace": "mx-a"}
    site.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
    words = ("get", "service", name, "-n", "mx-a", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
    return until(lambda: site.cluster.kubectl(*words), f"the address of {name}", 20)


def test_a_router_learns_pods_and_balancers_and_is_believed_what_is_allowed(site: Site) -> None:
    configure(site)
    anywhere, local = service(site, "anywhere", "Cluster"), service(site, "local", "Local")
    every = {site.node_ips[at][4] for at in NODES}
    wanted = {site.pod_cidrs[at][4]: {site.node_ips[at][4]} for at in NODES}
    wanted |= {anywhere: every, local: every - {site.node_ips[3][4]}}

    def learnt() -> bool:
        found = routes(site.outside)
        assert {each: found.get(each) for each in wanted} == wanted
        return True

    until(learnt, "the routes of the router", 40)
    for at in NODES:
        until(lambda at=at: "198.51.100.0/24" in routes(netns_of(site, at)), f"the way out of node {at}", 20)  # type: ignore[misc]  # a lambda's default
    # By the router's own choice of node, and with the source kept where the policy says so.
    assert ask(site.outside, anywhere, 80, source=BEYOND).split()[0] in ("a-1", "a-2")
    server, client = ask(site.outside, local, 80, source=BEYOND).split()
    assert server in ("a-1", "a-2") and client == BEYOND
    # Pods are reached without any translation.
    assert ask(site.outside, site.pod_ips["a-1"][4], 8080, source=BEYOND) == f"a-1 {BEYOND}"


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_a_balancer_answers_through_a_rolling_update(site: Site, policy: str) -> None:
    configure(site)
    answers = answers_while_rolling(site, policy, source=BEYOND)
    assert len(answers) >= 20
    assert len(failures(answers)) <= MOVES[policy], failures(answers)


def birds(site: Site, at: int) -> list[int]:
    """The processes of a node's BIRD, by the control socket in their command lines."""
    mark = f"/nodes/{site.node(at)}/bird".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith((b"/usr/sbin/bird\0", b"bird\0")) and mark in command:
            found.append(int(entry.name))
    return found


def test_pods_talk_on_while_bird_is_killed_and_while_the_back_end_changes(site: Site) -> None:
    client = netns_of(site, 3)
    target = site.pod_ips["a-1"][4]
    (before,) = birds(site, 1)
    os.kill(before, signal.SIGKILL)
    assert ask(client, target, 8080).startswith("a-1 ")  # the routes stay
    until(lambda: birds(site, 1) not in ([], [before]), "another BIRD", 20)
    for backend in ("vxlan", "host-gw", "bgp"):
        configure(site, backend)

        def changed(backend: str = backend) -> bool:
            for at in NODES:
                text = sh("ip route", netns_of(site, at))
                others = [site.pod_cidrs[other][4] for other in NODES if other != at]
                lines = [line for line in text.splitlines() if line.split()[0] in others]
                mark = {"vxlan": "dev tph.1", "host-gw": "proto 84", "bgp": "proto bird"}[backend]
                assert len(lines) == len(others) and all(mark in line for line in lines), text
                assert ("tph.1" in sh("ip -br link", netns_of(site, at))) == (backend == "vxlan")
            return True

        until(changed, f"the change to {backend}", 40)
        assert ask(client, target, 8080).startswith("a-1 ")


def test_reflectors_pass_on_what_the_others_say(site: Site) -> None:
    configure(site, routeReflectors=[site.node(1)])
    control = f"/run/tiphys/{NAME}/nodes/{site.node(2)}/bird4/bird.ctl"

    def reflected() -> bool:
        sessions = sh(f"birdc -s {control} show protocols")
        assert len(re.findall(r"^node_.*Established", sessions, re.MULTILINE)) == 1, sessions
        assert sessions.count("node_") == 1
        found = routes(netns_of(site, 2))
        # The way leads to the node itself, not to the reflector.
        assert found.get(site.pod_cidrs[3][4]) == {site.node_ips[3][4]}
        assert found.get(site.pod_cidrs[1][4]) == {site.node_ips[1][4]}
        return True

    until(reflected, "the routes by the reflector", 40)
    target = site.pod_ips["a-2"][4]
    until(lambda: ask(netns_of(site, 3), target, 8080).startswith("a-2 "), "the way of another node", 20)
