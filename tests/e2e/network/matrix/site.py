"""The site of the matrix tests: a cluster of three nodes, the same pods on each, and a machine beside them.

    namespace mx-a    a-1 a-2 a-3    one a node; a-1 and a-2 are behind the Services
    namespace mx-b    b-1 b-2 b-3    clients; and host-1 host-2 host-3 on the nodes' network
    outside           a namespace on the nodes' switch, which knows no way to pods and cluster IPs

Every pod serves TCP and UDP on 8080 (`http`) and 8081 (those of the nodes' network on 18080), pages on 8082, and asks,
by `probe.py`.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiphys
from tests.e2e.cluster.harness import Cluster, until
from tests.e2e.netlab import sh

PROBE = Path(__file__).with_name("probe.py")
NODES = (1, 2, 3)
SPACES = ("mx-a", "mx-b")
POD_PORTS, PAGES, HOST_PORT = (8080, 8081), 8082, 18080
HOST_MAPPED = 28080  # hostPort of a-1

Object = dict[str, Any]
Question = tuple[str, str, str, int]  # id, protocol, host, port


@dataclass(frozen=True)
class Source:
    """Somebody who asks. `kind`: pod, host (a pod on the node's network), node or outside; `at`: its node."""

    kind: str
    at: int = 0
    name: str = ""
    space: str = ""

    def __str__(self) -> str:
        return self.name or (f"node-{self.at}" if self.at else self.kind)


@dataclass
class Site:
    """A running cluster with its pods; addresses are by IP version."""

    cluster: Cluster
    families: tuple[int, ...]
    outside: str  # name of its network namespace
    outside_ips: dict[int, str] = field(default_factory=dict)
    pod_ips: dict[str, dict[int, str]] = field(default_factory=dict)
    node_ips: dict[int, dict[int, str]] = field(default_factory=dict)
    pod_cidrs: dict[int, dict[int, str]] = field(default_factory=dict)  # of a node

    def node(self, number: int) -> str:
        return f"{self.cluster.name}-{number}"

    def pods(self) -> list[Source]:
        """The pods of the pod network."""
        return [Source("pod", at, f"{space[-1]}-{at}", space) for space in SPACES for at in NODES]

    def hosts(self) -> list[Source]:
        return [Source("host", at, f"host-{at}", "mx-b") for at in NODES]

    def ask(self, questions: Mapping[Source, Sequence[Question]]) -> dict[Source, dict[str, str]]:
        """Everybody asks at once."""
        with ThreadPoolExecutor(4) as together:
            answers = together.map(self._ask, questions, questions.values())
            return dict(zip(questions, answers, strict=True))

    def _ask(self, source: Source, questions: Sequence[Question]) -> dict[str, str]:
        text = json.dumps(list(questions))
        if source.kind in ("pod", "host"):
            words = ("exec", "-i", "-n", source.space, source.name, "--", "python3", "/probe/probe.py", "ask")
            output = self.cluster.kubectl(*words, stdin=text)
        else:
            netns = self.outside if source.kind == "outside" else f"tiphys-{self.cluster.name}-{self.node(source.at)}"
            words = ("ip", "netns", "exec", netns, "python3", str(PROBE), "ask")
            output = subprocess.run(words, input=text, capture_output=True, text=True, check=True, timeout=120).stdout
        answers: dict[str, str] = json.loads(output)
        return answers

    def spec(self, **words: Any) -> Object:
        """Of a Service in every family of the cluster."""
        versions = [f"IPv{each}" for each in self.families]
        policy = "RequireDualStack" if len(versions) > 1 else "SingleStack"
        return {"ipFamilies": versions, "ipFamilyPolicy": policy, **words}


def _pod(site: Site, source: Source) -> Object:
    on_host = source.kind == "host"
    ports = (HOST_PORT,) if on_host else (*POD_PORTS, f"{PAGES}/http")
    mapped = [{"containerPort": 8080, "hostPort": HOST_MAPPED, "protocol": each} for each in ("TCP", "UDP")]
    named = [
        {"name": "http", "containerPort": 8080},
        {"name": "dns", "containerPort": 8081, "protocol": "UDP"},
    ]
    labels = {"app": "web" if source.name in ("a-1", "a-2") else "client", "at": str(source.at), "who": source.name}
    container = {
        "name": "main",
        "image": f"tiphys.local/system:{tiphys.__version__}",
        "command": ["python3", "/probe/probe.py", "serve", source.name, *map(str, ports)],
        "ports": [] if on_host else mapped if source.name == "a-1" else named,
        "volumeMounts": [{"name": "probe", "mountPath": "/probe"}],
        "readinessProbe": {"tcpSocket": {"port": ports[0]}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": source.name, "namespace": source.space, "labels": labels},
        "spec": {
            "nodeName": site.node(source.at),
            "hostNetwork": on_host,
            "dnsPolicy": "ClusterFirstWithHostNet" if on_host else "ClusterFirst",
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "probe", "configMap": {"name": "probe"}}],
            "containers": [container],
        },
    }


def _fill(site: Site) -> None:
    cluster = site.cluster
    objects: list[Object] = []
    for space in SPACES:
        objects.append(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space, "labels": {"team": space}}}
        )
        data = {"probe.py": PROBE.read_text()}
        metadata = {"name": "probe", "namespace": space}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    cluster.apply("\n---\n".join(map(json.dumps, objects)))
    for space in SPACES:  # on a busy machine their controller takes longer than a pod's admission waits
        cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", space, "--timeout=60s")
    cluster.apply("\n---\n".join(json.dumps(_pod(site, each)) for each in (*site.pods(), *site.hosts())))
    for space in SPACES:
        cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-n", space, "--timeout=110s")
    for space in SPACES:
        for pod in cluster.get("pods", "-n", space)["items"]:
            site.pod_ips[pod["metadata"]["name"]] = by_family(each["ip"] for each in pod["status"]["podIPs"])
    for number in NODES:
        node = cluster.get("node", site.node(number))
        internal = [each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"]
        site.node_ips[number] = by_family(internal)
        site.pod_cidrs[number] = by_family(node["spec"]["podCIDRs"])


def by_family(addresses: Iterator[str] | Sequence[str]) -> dict[int, str]:
    """IP version → the first of these addresses or networks that has it."""
    found: dict[int, str] = {}
    for each in addresses:
        found.setdefault(ipaddress.ip_interface(each).version, each)
    return found


@contextmanager
def site_of(name: str, port: str, families: tuple[int, ...], *flags: str) -> Iterator[Site]:
    """A cluster made with these flags of `up`, and taken away at the end."""
    cluster = Cluster(name)
    site = Site(cluster, families, f"tph-test-{name}-outside")
    cluster.down("--purge")
    _unplug_outside(site)
    try:
        cluster.up("--nodes", str(len(NODES)), "--api-port", port, *flags)
        _fill(site)
        _plug_outside(site)
        _lift_icmp_limits(site)
        yield site
    finally:
        _unplug_outside(site)
        cluster.down("--purge")


def _port_of_outside(site: Site) -> str:
    return f"tpht-{site.cluster.name}"


def _unplug_outside(site: Site) -> None:
    # The link by itself: with the namespace alone it goes only when the kernel gets round to it.
    for what in (["link", "del", _port_of_outside(site)], ["netns", "del", site.outside]):
        subprocess.run(["ip", *what], capture_output=True, check=False)


def _plug_outside(site: Site) -> None:
    """A machine on the nodes' switch, with an address behind the nodes' and before the balancers'."""
    bridge, port = f"tph-{site.cluster.name}", _port_of_outside(site)
    sh(f"ip netns add {site.outside}")
    sh(f"ip link add eth0 netns {site.outside} type veth peer name {port}")
    sh(f"ip link set {port} master {bridge} up")
    sh("ip link set lo up", site.outside)
    sh("ip link set eth0 up", site.outside)
    for version, node_ip in site.node_ips[1].items():
        own = str(ipaddress.ip_address(node_ip) + 180)
        length = 24 if version == 4 else 64
        sh(f"ip addr add {own}/{length} dev eth0 {'nodad' if version == 6 else ''}", site.outside)
        site.outside_ips[version] = own


def _lift_icmp_limits(site: Site) -> None:
    """A kernel tells each client once a second that it is refused; whoever asks for hundreds of things must be told."""
    limits = ("net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_msgs_per_sec=1000000")
    for number in NODES:
        sh(f"sysctl -qe -w {' '.join(limits)} 2>/dev/null || true", f"tiphys-{site.cluster.name}-{site.node(number)}")


def settle(site: Site, wrong: Any, what: str, patience: float = 30.0) -> None:
    """Wait until `wrong()` names no difference any more; rules follow the API within a moment."""

    def right() -> bool:
        differences = wrong()
        assert not differences, f"{len(differences)} differ: " + "; ".join(differences[:20])
        return True

    until(right, what, patience)
