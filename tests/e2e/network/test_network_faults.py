"""The proxy, the network agent and cluster DNS killed while pods talk: what is connected stays, nothing old is left."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.e2e.cluster.harness import until
from tests.e2e.netlab import sh
from tests.e2e.network.matrix.site import NODES, Site, Source, site_of
from tests.e2e.network.rolling import MOVES, answers_while_rolling, failures
from tiphys.base.netns import call_in

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes need root"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on this machine"),
]

NAME = os.environ.get("TIPHYS_E2E_NAME", "e2e") + "-nf"
PORT = str(int(os.environ.get("TIPHYS_E2E_PORT", "16600")) + 75)
# One mode unless everything is asked for, as in test_matrix.
MODES = ("nftables", "iptables") if os.environ.get("TIPHYS_MATRIX") == "all" else ("nftables",)
T = TypeVar("T")


@pytest.fixture(scope="module", params=MODES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with site_of(NAME, PORT, (4,), "--proxy-mode", request.param) as made:
        yield made


def inside(pod: str, work: Callable[[], T]) -> T:
    """Run something in a pod's network namespace."""
    words = f"serve\0{pod}\0".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if words in (entry / "cmdline").read_bytes():
                return call_in(str(entry / "ns/net"), work)
        except OSError:
            continue
    raise AssertionError(f"no process of pod {pod}")


def service(site: Site, name: str, port: int = 80, target: int = 8080) -> str:
    """A Service of a-1; returns its cluster IP."""
    spec = {"selector": {"who": "a-1"}, "ports": [{"port": port, "targetPort": target}]}
    metadata = {"name": name, "namespace": "mx-a"}
    site.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
    return site.cluster.kubectl("get", "service", name, "-n", "mx-a", "-o", "jsonpath={.spec.clusterIP}")


def kill(site: Site, *kinds: str) -> None:
    """SIGKILL for these components of every node; the supervisor starts them again."""
    for name, pid in site.cluster.pids().items():
        if name.partition("/")[2] in kinds:
            os.kill(pid, signal.SIGKILL)


def reached(pod: str, address: str, port: int = 80) -> bool:
    def work() -> bool:
        try:
            with socket.create_connection((address, port), timeout=2) as channel:
                return channel.recv(20) != b""
        except OSError:
            return False

    return inside(pod, work)


def test_connections_outlive_proxy_and_agent_and_new_services_come(site: Site) -> None:
    listener = inside("a-1", lambda: socket.create_server(("", 9090)))
    address = service(site, "kept", target=9090)
    plain = service(site, "plain")
    client = until(lambda: inside("b-2", lambda: _connected(address)), "a connection through the Service", 20)
    with listener, client:
        server, _ = listener.accept()
        with server:
            for turn in range(3):
                kill(site, "proxy", "network")
                for _ in range(10):  # at once, while nobody is there
                    client.sendall(b"ping")
                    assert server.recv(4) == b"ping"
                    server.sendall(b"pong")
                    assert client.recv(4) == b"pong"
                    assert reached("b-3", plain)
                fresh = service(site, f"fresh-{turn}")
                until(lambda fresh=fresh: reached("b-3", fresh), "a Service made while the proxies were away", 20)  # type: ignore[misc]  # a lambda's default


def _connected(address: str) -> socket.socket | None:
    try:
        made = socket.create_connection((address, 80), timeout=2)
    except OSError:
        return None
    made.settimeout(5)
    return made


def test_what_went_while_the_proxy_was_away_is_taken_back(site: Site) -> None:
    address = service(site, "passing", port=81)
    until(lambda: reached("b-1", address, 81), "the Service", 20)
    proxies = [pid for name, pid in site.cluster.pids().items() if name.endswith("/proxy")]
    for pid in proxies:
        os.kill(pid, signal.SIGSTOP)
    site.cluster.kubectl("delete", "service", "passing", "-n", "mx-a")
    assert reached("b-1", address, 81)  # its rules are still there
    for pid in proxies:
        os.kill(pid, signal.SIGKILL)

    def forgotten() -> bool:
        for at in NODES:
            netns = f"tiphys-{site.cluster.name}-{site.node(at)}"
            assert address not in sh("nft list ruleset ip", netns)
        return True

    until(forgotten, "the rules of the Service to go", 20)


def test_names_are_found_again_after_dns_was_killed(site: Site) -> None:
    source = Source("pod", 3, "b-3", "mx-b")
    service(site, "plain")

    def found() -> bool:
        answers = site.ask({source: [("name", "tcp", "plain.mx-a", 80)]})
        return answers[source]["name"].startswith("a-1")

    until(found, "the name", 30)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if b"/etc/coredns/Corefile" in command and f"tiphys-{NAME}" in (entry / "cgroup").read_text():
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue
    until(found, "the name after DNS was killed", 60)


def test_a_pod_without_an_address_says_why_and_runs_when_one_is_free(site: Site) -> None:
    node = site.node(2)
    addresses = Path(f"/var/lib/tiphys/{site.cluster.name}/nodes/{node}/network/addresses")
    free = [each for each in map(str, ipaddress.ip_network(site.pod_cidrs[2][4])) if not (addresses / each).exists()]
    for each in free:
        (addresses / each).write_text("{}")  # nobody knows whose: they stay taken
    container = {"name": "c", "image": "busybox:1.37", "command": ["sleep", "1000"]}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}
    metadata = {"name": "late", "namespace": "mx-b"}
    try:
        site.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))

        def told() -> bool:
            events = site.cluster.get("events", "-n", "mx-b", "--field-selector", "involvedObject.name=late")["items"]
            return any("no IP addresses available in range set: " in each["message"] for each in events)

        until(told, "an event that says there is no address", 30)
    finally:
        for each in free:
            (addresses / each).unlink()
    site.cluster.wait_ready("late", "mx-b")
    site.cluster.kubectl("delete", "pod", "late", "-n", "mx-b", "--timeout=60s")


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_a_balancer_answers_through_a_rolling_update(site: Site, policy: str) -> None:
    answers = answers_while_rolling(site, policy)
    assert len(answers) >= 20
    assert len(failures(answers)) <= MOVES[policy], failures(answers)


def test_a_pod_leaves_nothing_and_a_foreign_table_is_left_alone(site: Site) -> None:
    netns = f"tiphys-{site.cluster.name}-{site.node(3)}"
    sh("nft add table inet foreign", netns)
    before = _links(netns)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "short", "namespace": "mx-b"},
        "spec": {
            "nodeName": site.node(3),
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "busybox:1.37", "command": ["sleep", "1000"]}],
        },
    }
    site.cluster.apply(json.dumps(pod))
    site.cluster.wait_ready("short", "mx-b")
    assert len(_links(netns)) == len(before) + 1
    kill(site, "network", "runtime")
    site.cluster.kubectl("delete", "pod", "short", "-n", "mx-b", "--timeout=60s")
    until(lambda: _links(netns) == before, "the pod's interface to go", 40)
    assert "table inet foreign" in sh("nft list tables", netns)


def _links(netns: str) -> set[str]:
    return {line.split()[0] for line in sh("ip -br link", netns).splitlines()}
