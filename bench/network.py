"""What the pod network costs: throughput and latency beside the bare path, look-ups, policies, DNS.

    python -m bench network [-- --parts paths,lookup,policy,dns] [--services 1000]

`paths` makes a cluster of two nodes, and beside it two namespaces joined by a veth and a bridge, and by a VXLAN, with
nothing of ours in them; each is measured in turn with the other, by iperf3 and by a message of one byte there and back,
and the ratio is what counts. `dns` asks a cluster's DNS, dnsmasq and unbound for the same names by dnsperf.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.clusters import Running, cluster
from bench.lookup import COUNTS, CPU, connecting, lookup, sh, where
from bench.report import percentile, table
from tiphys.base.netns import call_in
from tiphys.base.nft import AsyncNft
from tiphys.machinery.meta import ObjectName
from tiphys.network.policy.compile import compile_policy, pod_facts
from tiphys.network.policy.state import PolicyState

SECONDS, ROUNDS, MESSAGES = 2, 3, 3000
ECHO, IPERF = 7007, 5201
# What a part measures with, beside Python.
PROGRAMS = {"paths": ("iperf3",), "dns": ("dnsperf", "dnsmasq", "unbound")}
ECHO_SERVER = """
import os, socket, sys, threading
os.sched_setaffinity(0, {int(sys.argv[2])})
listener = socket.create_server(("", int(sys.argv[1])), backlog=1024)
def echo(channel):
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with channel:
        while piece := channel.recv(64):
            channel.send(piece)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""
Bench = dict[str, Any]


# --- one path ----------------------------------------------------------------------------------------


@contextmanager
def served(netns: str) -> Iterator[None]:
    """iperf3 and an echo in a namespace."""
    iperf = subprocess.Popen(
        ["nsenter", f"--net={where(netns)}", "iperf3", "-s", "-p", str(IPERF)], stdout=subprocess.DEVNULL
    )

    # Processes of their own: a thread of this one would be waited for with the interpreter's lock.
    echo = subprocess.Popen(
        ["nsenter", f"--net={where(netns)}", sys.executable, "-c", ECHO_SERVER, str(ECHO), str(CPU)]
    )
    time.sleep(0.5)
    try:
        yield
    finally:
        for process in (iperf, echo):
            process.kill()
            process.wait()


def throughput(netns: str, address: str, port: int) -> float:
    """Gbit/s of one TCP stream."""
    reason = ""
    for _ in range(5):
        found = json.loads(sh(f"iperf3 -J --connect-timeout 3000 -t {SECONDS} -c {address} -p {port} || true", netns))
        if "sum_received" in found["end"]:
            return float(found["end"]["sum_received"]["bits_per_second"]) / 1e9
        reason = found.get("error", "")
        time.sleep(0.5)  # the server is still busy with the last one
    raise SystemExit(f"iperf3 to {address} port {port}: {reason}")


def latency(netns: str, address: str, port: int) -> float:
    """Median of a byte there and back on one connection, in µs."""

    def work() -> float:
        os.sched_setaffinity(0, {CPU})  # this thread alone
        with socket.create_connection((address, port)) as channel:
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times = []
            for _ in range(MESSAGES):
                begun = time.perf_counter()
                channel.send(b"x")
                channel.recv(1)
                times.append(time.perf_counter() - begun)
            return percentile(times, 0.5) * 1e6

    return call_in(where(netns), work)


# --- the bare paths ------------------------------------------------------------------------------------


class Bare:
    """Two nodes with a pod each (and one more on the first), made by hand: veth, bridge, VXLAN, nothing else."""

    def __init__(self) -> None:
        self._prefix = f"tph-test-b{os.getpid() % 10000}"
        self._bridge = f"tphb{os.getpid() % 10000}"

    def name(self, word: str) -> str:
        return f"{self._prefix}-{word}"

    def __enter__(self) -> Bare:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        sh(f"ip link add {self._bridge} type bridge && ip addr add 192.168.250.254/24 dev {self._bridge}")
        sh(f"ip link set {self._bridge} up")
        for number in (1, 2):
            node = self.name(f"n{number}")
            sh(f"ip netns add {node}")
            sh(f"ip link add {self._bridge}{number} type veth peer name eth0 netns {node}")
            sh(f"ip link set {self._bridge}{number} master {self._bridge} up")
            sh(f"ip addr add 192.168.250.{number}/24 dev eth0 && ip link set eth0 up && ip link set lo up", where(node))
            # The same device as the cluster's, and a bridge for pods.
            other = 3 - number
            mac = "0a:00:00:00:00:0{}"
            for command in (
                f"ip link add vx type vxlan id 9 dstport 8472 local 192.168.250.{number} dev eth0 nolearning",
                f"ip link set vx address {mac.format(number)} mtu 1450 up",
                f"ip addr add 10.9.{number}.0/32 dev vx",
                f"ip route add 10.9.{other}.0/24 via 10.9.{other}.0 dev vx onlink",
                f"ip neigh add 10.9.{other}.0 lladdr {mac.format(other)} dev vx nud permanent",
                f"bridge fdb add {mac.format(other)} dev vx dst 192.168.250.{other} self permanent",
                "ip link add pods type bridge && ip link set pods mtu 1450 up",
                f"ip addr add 10.9.{number}.1/24 dev pods",
                "sysctl -qw net.ipv4.ip_forward=1",
                "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
            ):
                sh(command, where(node))
            for pod in ("p", "q"):
                full = self.name(f"{pod}{number}")
                sh(f"ip netns add {full}")
                sh(f"ip link add {pod} mtu 1450 type veth peer name eth0 mtu 1450 netns {full}", where(node))
                sh(f"ip link set {pod} master pods up", where(node))
                address = f"10.9.{number}.{2 if pod == 'p' else 3}"
                sh(f"ip addr add {address}/24 dev eth0; ip link set eth0 up; ip link set lo up", where(full))
                sh(f"ip route add default via 10.9.{number}.1", where(full))
        sh("ip route add 10.9.1.0/24 via 192.168.250.1")

    def __exit__(self, *_: object) -> None:
        for word in ("p1", "q1", "p2", "q2", "n1", "n2"):
            subprocess.run(["ip", "netns", "del", self.name(word)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)


# --- the cluster's paths -------------------------------------------------------------------------------


def kubectl(running: Running, *words: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["kubectl", f"--kubeconfig={running.kubeconfig}", *words],
        input=stdin or None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr}")
    return done.stdout


def start_pods(running: Running) -> dict[str, tuple[str, str]]:
    """Pods a, b on the first node and c on the second, a and c behind Services: name → namespace's path and IP."""
    names = {"a": 1, "b": 1, "c": 2}
    documents: list[Bench] = []
    for name, at in names.items():
        container = {"name": "main", "image": "busybox:1.37", "command": ["sleep", "100000"]}
        spec = {"nodeName": f"{running.name}-{at}", "terminationGracePeriodSeconds": 0, "containers": [container]}
        metadata = {"name": name, "labels": {"who": name}}
        documents.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        ports = [{"name": f"p{port}", "port": port} for port in (ECHO, IPERF)]
        spec = {"type": "NodePort", "selector": {"who": name}, "ports": ports}
        documents.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    kubectl(running, "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    kubectl(running, "wait", "--for=condition=Ready", "pod", *names, "--timeout=60s")
    found = {}
    for name in names:
        pod = json.loads(kubectl(running, "get", "pod", name, "-o", "json"))
        found[name] = (f"/proc/{_process(pod['metadata']['uid'])}/ns/net", pod["status"]["podIP"])
    return found


def _process(uid: str) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if uid in (entry / "cgroup").read_text() and (entry / "cmdline").read_bytes().startswith(b"sleep"):
                return int(entry.name)
        except OSError:
            continue
    raise SystemExit(f"no process of pod {uid}")


def paths() -> None:
    """Every path beside its bare one."""
    with ExitStack() as stack:
        running = stack.enter_context(cluster("--nodes", "2"))
        bare = stack.enter_context(Bare())
        pods = start_pods(running)
        for netns in (pods["a"][0], pods["c"][0], bare.name("p1"), bare.name("p2")):
            stack.enter_context(served(netns))
        fronts: dict[str, Bench] = {
            name: json.loads(kubectl(running, "get", "service", name, "-o", "json"))["spec"] for name in ("a", "c")
        }
        node_ports = {each["port"]: each["nodePort"] for each in fronts["a"]["ports"]}
        node_ip = kubectl(running, "get", "node", f"{running.name}-1", "-o", "jsonpath={.status.addresses[0].address}")
        root = "/proc/1/ns/net" if not os.path.exists("/proc/self/ns/net") else "/proc/self/ns/net"
        own = {ECHO: ECHO, IPERF: IPERF}
        same, across = (bare.name("q1"), "10.9.1.2"), (bare.name("q1"), "10.9.2.2")
        rows: list[tuple[str, tuple[str, str], tuple[str, str], dict[int, int]]] = [
            ("pod → pod, same node", (pods["b"][0], pods["a"][1]), same, own),
            ("pod → pod, other node (VXLAN)", (pods["b"][0], pods["c"][1]), across, own),
            ("pod → cluster IP → pod, same node", (pods["b"][0], fronts["a"]["clusterIP"]), same, own),
            ("pod → cluster IP → pod, other node", (pods["b"][0], fronts["c"]["clusterIP"]), across, own),
            ("host → node port → pod", (root, node_ip), (root, "10.9.1.2"), node_ports),
        ]
        found = []
        for name, ours, plain, ports in rows:
            print(f"  {name} …", file=sys.stderr, flush=True)
            figures: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                for kind, (netns, address), numbers in (("ours", ours, ports), ("plain", plain, own)):
                    figures.setdefault(f"{kind} gbit", []).append(throughput(netns, address, numbers[IPERF]))
                    figures.setdefault(f"{kind} us", []).append(latency(netns, address, numbers[ECHO]))
                    figures.setdefault(f"{kind} new", []).append(connecting(netns, address, numbers[ECHO]))
            best = {key: percentile(values, 0.5) for key, values in figures.items()}
            found.append(
                [
                    name,
                    f"{best['ours gbit']:.1f} / {best['plain gbit']:.1f}",
                    f"{best['ours gbit'] / best['plain gbit'] * 100:.0f} %",
                    f"{best['ours us']:.1f} / {best['plain us']:.1f}",
                    f"{best['ours us'] / best['plain us'] * 100:.0f} %",
                    f"{best['ours new']:.1f} / {best['plain new']:.1f}",
                ]
            )
        table(
            ["path (ours / bare)", "Gbit/s", "ratio", "byte there and back, µs", "ratio", "new connection, µs"], found
        )


# --- policies --------------------------------------------------------------------------------------------


def policy(policies: int = 1000, pods: int = 5000, local: int = 100) -> None:
    """Many policies and pods on one node of fifty: loading them, and one pod that comes and goes."""
    netns = f"tph-test-pol-{os.getpid()}"
    sh(f"ip netns add {netns}")
    try:
        call_in(where(netns), lambda: asyncio.run(_policy(policies, pods, local)))
    finally:
        sh(f"ip netns del {netns}")


async def _policy(policies: int, pods: int, local: int) -> None:
    from tests.unit.network.policy.world import pod  # builders of the unit tests
    from tests.unit.network.policy.world import policy as policy_of

    spaces = [f"space-{number}" for number in range(100)]
    state, nft = PolicyState(), AsyncNft()

    def made(number: int, node: str) -> Any:
        labels = {"app": f"app-{number % 20}", "tier": f"tier-{number % 3}"}
        ip = f"10.{244 + number // 60000}.{number // 250 % 240}.{number % 250 + 1}"
        found = pod_facts(pod(spaces[number % len(spaces)], f"pod-{number}", ip, labels, node=node), "n1")
        assert found is not None
        return found

    begun = time.perf_counter()
    for space in spaces:
        state.put_namespace(space, {"kubernetes.io/metadata.name": space, "team": f"team-{len(space) % 7}"})
    for number in range(pods):
        state.put_pod(made(number, "n1" if number < local else "n2"))
    for number in range(policies):
        peer = {"podSelector": {"matchLabels": {"app": f"app-{number % 20}"}}}
        other = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": spaces[number * 7 % 100]}}}
        rule = {"from": [peer, other], "ports": [{"port": 8080 + number % 5}]}
        subject = {"matchLabels": {"tier": f"tier-{number % 3}"}}
        state.put_policy(
            compile_policy(policy_of(spaces[number % 100], f"p-{number}", pod_selector=subject, ingress=[rule]))
        )
    script = state.whole()
    decided = time.perf_counter()
    await nft.run(script)
    done = time.perf_counter()
    latencies: dict[str, list[float]] = {"pod of another node comes": [], "goes": [], "pod of this node comes": []}
    for turn in range(200):
        for what, node in (("pod of another node comes", "n2"), ("goes", ""), ("pod of this node comes", "n1")):
            facts = made(pods + turn, node or "n2")
            started = time.perf_counter()
            if node:
                state.put_pod(facts)
            else:
                state.drop_pod(ObjectName(facts.name.namespace, facts.name.name))
            if text := state.script():
                await nft.run(text)
            latencies[what].append((time.perf_counter() - started) * 1e3)
    rows = [["all at once", f"{(decided - begun) * 1e3:.0f} + {(done - decided) * 1e3:.0f} (decide + kernel)", ""]]
    rows += [
        [what, f"{percentile(each, 0.5):.1f}", f"{percentile(each, 0.99):.1f}"] for what, each in latencies.items()
    ]
    table([f"{policies:,} policies, {pods:,} pods, {local} here", "p50, ms", "p99, ms"], rows)
    print(f"  memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB, {len(script) >> 10} KiB of rules")
    nft.close()


# --- DNS -------------------------------------------------------------------------------------------------


def dns(services: int = 1000) -> None:
    """Queries for the names of Services: the cluster's DNS (one process), dnsmasq and unbound, with the same names."""
    with cluster("--nodes", "1") as running, tempfile.TemporaryDirectory() as directory:
        port = {"port": 80}
        documents = [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"s-{number}"}, "spec": {"ports": [port]}}
            for number in range(services)
        ]
        kubectl(
            running, "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        )
        found = json.loads(kubectl(running, "get", "services", "-o", "json"))["items"]
        names = {f"{each['metadata']['name']}.default.svc.cluster.local": each["spec"]["clusterIP"] for each in found}
        queries = Path(directory, "queries")
        queries.write_text("".join(f"{name} A\n" for name in names))
        words = (
            "get",
            "pods",
            "-n",
            "kube-system",
            "-l",
            "k8s-app=kube-dns",
            "-o",
            "jsonpath={.items[0].status.podIP} {.items[0].metadata.uid}",
        )
        ours, uid = kubectl(running, *words).split()
        netns = f"tiphys-{running.name}-{running.name}-1"
        with _others(ours, _dns_process(uid), directory, names):
            asked = {"Tiphys, one replica": 53, "dnsmasq": 5301, "unbound": 5302}
            figures: dict[str, list[list[float]]] = {name: [] for name in asked}
            for _ in range(ROUNDS):  # in turn, so that what else the machine does meets all of them
                for name, number in asked.items():
                    figures[name].append(_asked(netns, ours, number, queries))
        rows = []
        for name, rounds in figures.items():
            rate, mean, worst, lost = (percentile(each, 0.5) for each in zip(*rounds, strict=True))
            rows.append([name, f"{rate:,.0f}", f"{mean * 1e3:.2f}", f"{worst * 1e3:.1f}", f"{lost:.0f}"])
        table([f"{services:,} Services", "queries/s", "mean, ms", "largest, ms", "lost"], rows)


@contextmanager
def _others(address: str, beside: int, directory: str, names: dict[str, str]) -> Iterator[None]:
    """dnsmasq and unbound on ports 5301 and 5302, in the network and with the share of CPU of the process `beside`."""
    Path(directory, "hosts").write_text("".join(f"{ip} {name}\n" for name, ip in names.items()))
    Path(directory, "unbound.conf").write_text(
        f"server:\n username: ''\n chroot: ''\n use-syslog: no\n do-daemonize: no\n interface: {address}@5302\n"
        " access-control: 0.0.0.0/0 allow\n"
        f" pidfile: {directory}/unbound.pid\n num-threads: 1\n local-zone: cluster.local. static\n"
        + "".join(f' local-data: "{name}. 30 A {ip}"\n' for name, ip in names.items())
    )
    netns, groups = f"/proc/{beside}/ns/net", Path(f"/proc/{beside}/cgroup").read_text()
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in groups.splitlines())}
    v1 = next((path for controllers, path in paths.items() if "cpu" in controllers.split(",")), None)
    share = f"/sys/fs/cgroup/cpu{v1}" if v1 is not None else f"/sys/fs/cgroup{paths['']}"
    commands = (
        f"dnsmasq -k -p 5301 -h -H {directory}/hosts -a {address} -z -R -c 0 -u root -x ''",
        f"unbound -c {directory}/unbound.conf",
    )
    processes = [subprocess.Popen(f"exec nsenter --net={netns} {command}", shell=True) for command in commands]
    try:
        for process in processes:
            Path(share, "cgroup.procs").write_text(str(process.pid))
        time.sleep(1.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _dns_process(uid: str) -> int:
    """The DNS server of the pod with this uid."""
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if b"--conf" in each.read_bytes().split(b"\0") and uid in each.with_name("cgroup").read_text():
                return int(each.parent.name)
    raise SystemExit(f"no process of the DNS pod {uid}")


def _asked(netns: str, address: str, port: int, queries: Path) -> list[float]:
    """Queries a second, mean and largest time in seconds, queries lost."""
    text = sh(f"dnsperf -s {address} -p {port} -d {queries} -l 5 -c 4 -q 50", where(netns))

    def figure(pattern: str) -> float:
        matched = re.search(pattern, text)
        return float(matched[1]) if matched else float("nan")

    rate, lost = figure(r"Queries per second:\s+([\d.]+)"), figure(r"Queries lost:\s+(\d+)")
    return [rate, figure(r"Average Latency \(s\):\s+([\d.]+)"), figure(r"max ([\d.]+)\)"), lost]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="paths,lookup,policy,dns")
    parser.add_argument("--counts", default=COUNTS, help="Services of the look-ups")
    options = parser.parse_args()
    known: dict[str, Callable[[], None]] = {
        "paths": paths,
        "lookup": lambda: lookup([int(each) for each in options.counts.split(",")]),
        "policy": policy,
        "dns": dns,
    }
    parts = options.parts.split(",")
    missing = [name for part in parts for name in PROGRAMS.get(part, ()) if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)} (scripts/bench installs what is measured with)")
    for part in parts:
        known[part]()


if __name__ == "__main__":
    main()
