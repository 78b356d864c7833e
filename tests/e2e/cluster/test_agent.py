"""A machine of its own (a network namespace on the cluster's bridge) joins with a token and leaves again."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster.harness import Cluster, tiphys, until

ADDRESS = 200  # the last number of the machine's address; far from those `up` gives
MOVED = 201  # and of the one it has later


class Machine:
    """A network and a mount namespace as a machine beside the cluster's own nodes; a process holds them."""

    def __init__(self, cluster: Cluster) -> None:
        short = secrets.token_hex(3)
        self.name = f"joined-{short}"
        self.agent = f"agent-{short}"
        self.namespace = f"tph-test-{short}"
        self.link = f"tpht{short}"
        self.prefix = cluster.status()["nodes"][0]["address"].rpartition(".")[0]
        self.bridge = f"tph-{cluster.name}"
        self.holder: subprocess.Popen[str] | None = None
        self.process: subprocess.Popen[str] | None = None
        self.output = Path(f"/tmp/{self.agent}.log")

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def connect(self) -> None:
        inside = ("-n", self.namespace)
        self.ip("netns", "add", self.namespace)
        self.ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        self.ip("link", "set", self.link, "master", self.bridge, "up")
        self.ip(*inside, "address", "add", f"{self.prefix}.{ADDRESS}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            self.ip(*inside, "link", "set", link, "up")
        self.ip(*inside, "route", "add", "default", "via", f"{self.prefix}.1")
        # `ip netns exec` would hide the cgroups.
        into = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        self.holder = subprocess.Popen(
            [*into, "unshare", "--mount", "--propagation=slave", "sh", "-c", "echo; exec sleep infinity"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout is not None
        self.holder.stdout.readline()

    def command(self, *words: str) -> list[str]:
        assert self.holder is not None
        enter = ["nsenter", f"--target={self.holder.pid}", "--net", "--mount"]
        return [*enter, sys.executable, "-m", "tiphys.cmd.main", "agent", "--name", self.agent, *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=120)

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program on the machine."""
        assert self.holder is not None
        enter = ["nsenter", f"--target={self.holder.pid}", "--net", "--mount"]
        return subprocess.run([*enter, *words], capture_output=True, text=True, check=True)

    def start(self, *words: str) -> None:
        """Start the agent, which stays in the foreground."""
        with self.output.open("a") as output:
            self.process = subprocess.Popen(self.command(*words), stdout=output, stderr=output, text=True)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
            self.process = None

    def leave(self) -> str:
        """Reset the agent; what the command printed."""
        done = self.run("--reset")
        assert done.returncode == 0, done.stderr
        if self.process is not None:
            self.process.wait(30)
            self.process = None
        return done.stdout

    def remove(self) -> None:
        if self.holder is not None:
            self.run("--reset")
            if self.process is not None:
                self.process.wait(30)
            self.holder.kill()
            self.holder.wait()
            assert self.holder.stdout is not None
            self.holder.stdout.close()
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)
        subprocess.run(["ip", "link", "delete", self.link], check=False, stderr=subprocess.DEVNULL)
        self.output.unlink(missing_ok=True)


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[Machine]:
    found = Machine(cluster)
    try:
        found.connect()
        yield found
    finally:
        found.remove()
        cluster.run("delete", "node", found.name, "--ignore-not-found")


def join_command(cluster: Cluster) -> list[str]:
    """The flags that `tiphys token create` prints."""
    words = tiphys("token", "create", "--name", cluster.name).stdout.split()
    assert words[:2] == ["tiphys", "agent"]
    return words[2:]


def ready(cluster: Cluster, node: str) -> bool:
    found = cluster.run("get", "node", node, "-o", "json")
    assert found.returncode == 0, found.stderr
    conditions = json.loads(found.stdout)["status"]["conditions"]
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def pod_on(cluster: Cluster, namespace: str, name: str, node: str) -> str:
    """A pod that answers with its name on port 8080, on one node; its address."""
    command = ["sh", "-c", f"echo {name} > /tmp/index.html; echo started; exec httpd -f -p 8080 -h /tmp"]
    container = {"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": command}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
    cluster.wait_ready(name, namespace)
    return cluster.kubectl("get", "pod", name, "-n", namespace, "-o", "jsonpath={.status.podIP}")


def fetch(cluster: Cluster, namespace: str, pod: str, url: str) -> str:
    return cluster.kubectl("exec", pod, "-n", namespace, "--", "wget", "-qO-", url)


def test_a_machine_joins_works_and_leaves(cluster: Cluster, namespace: str, machine: Machine) -> None:
    machine.start(*join_command(cluster), "--node-name", machine.name)
    until(lambda: ready(cluster, machine.name), "the new node")
    until(lambda: "is up; logs are in" in machine.output.read_text(), "the agent's last line")
    first = cluster.status()["nodes"][0]["name"]
    here = pod_on(cluster, namespace, "here", first)
    there = pod_on(cluster, namespace, "there", machine.name)
    # The API server believes its kubelet: its certificate is the cluster's.
    assert cluster.kubectl("logs", "there", "-n", namespace) == "started\n"
    # Pod to pod, both ways; through a Service by its name.
    assert fetch(cluster, namespace, "there", f"http://{here}:8080") == "here\n"
    assert fetch(cluster, namespace, "here", f"http://{there}:8080") == "there\n"
    for name in ("here", "there"):
        cluster.kubectl("expose", "pod", name, "-n", namespace, "--port=80", "--target-port=8080")
    until(lambda: fetch(cluster, namespace, "there", "http://here") == "here\n", "a Service from the new node")
    until(lambda: fetch(cluster, namespace, "here", "http://there") == "there\n", "a Service on the new node")
    # The agent ends and starts again, without a token: its containers have run on.
    started = cluster.kubectl("get", "pod", "there", "-n", namespace, "-o", "jsonpath={.status.containerStatuses}")
    machine.stop()
    assert fetch(cluster, namespace, "here", f"http://{there}:8080") == "there\n"
    machine.start()
    until(lambda: machine.output.read_text().count("is up; logs are in") == 2, "the agent again")
    until(lambda: cluster.kubectl("exec", "there", "-n", namespace, "--", "echo", "x") == "x\n", "exec again")
    after = cluster.kubectl("get", "pod", "there", "-n", namespace, "-o", "jsonpath={.status.containerStatuses}")
    assert json.loads(after)[0]["containerID"] == json.loads(started)[0]["containerID"]
    renew(cluster, machine)
    until(lambda: ready(cluster, machine.name), "the node with its new certificates")
    until(lambda: cluster.kubectl("exec", "there", "-n", namespace, "--", "echo", "x") == "x\n", "exec once more")
    move(cluster, machine)
    until(lambda: fetch(cluster, namespace, "there", f"http://{here}:8080") == "here\n", "a pod from where it is now")
    until(lambda: fetch(cluster, namespace, "here", f"http://{there}:8080") == "there\n", "a pod where it is now")
    until(lambda: cluster.run("logs", "there", "-n", namespace).stdout == "started\n", "its kubelet where it is now")
    # Drivers find its kubelet where they look for it.
    assert machine.inside("stat", "-c", "%F", "/var/lib/kubelet/pod-resources/kubelet.sock").stdout == "socket\n"
    # It leaves, and nothing of it stays.
    assert f"kubectl delete node {machine.name}" in machine.leave()
    links = subprocess.run(
        ["ip", "-n", machine.namespace, "-json", "link"], capture_output=True, text=True, check=True
    ).stdout
    assert [link["ifname"] for link in json.loads(links)] == ["lo", "eth0"]
    tables = ["nsenter", f"--net=/run/netns/{machine.namespace}", "nft", "list", "tables"]
    assert subprocess.run(tables, capture_output=True, text=True, check=True).stdout == ""
    assert not Path("/run/tiphys", machine.agent).exists()
    assert not Path("/var/lib/tiphys", machine.agent).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/tiphys-{machine.agent}"))


def renew(cluster: Cluster, machine: Machine) -> None:
    """All of a node's credentials are replaced, and what uses them goes on."""
    state = Path("/var/lib/tiphys", machine.agent)
    files = [
        state / "kubeconfig" / f"kubelet-{machine.name}.conf",
        state / "kubeconfig" / "proxy.conf",
        state / "kubeconfig" / "network.conf",
        state / "pki" / f"kubelet-{machine.name}-server.crt",
    ]
    before = [file.read_bytes() for file in files]
    kubelet = Path("/run/tiphys", machine.agent, "pids", f"{machine.name}@kubelet.pid")
    pid = kubelet.read_text()
    done = machine.run("--renew")
    assert done.returncode == 0, done.stderr
    until(lambda: all(file.read_bytes() != old for file, old in zip(files, before, strict=True)), "new credentials")
    until(lambda: kubelet.read_text() != pid, "the kubelet with them")


def move(cluster: Cluster, machine: Machine) -> None:
    """The machine gets another address, and its agent is told of it."""
    inside = ("-n", machine.namespace, "address")
    machine.stop()
    machine.ip(*inside, "add", f"{machine.prefix}.{MOVED}/24", "dev", "eth0")
    machine.ip(*inside, "delete", f"{machine.prefix}.{ADDRESS}/24", "dev", "eth0")
    # With the address went all others of its range (promote_secondaries is off), and the way out.
    machine.ip(*inside, "replace", f"{machine.prefix}.{MOVED}/24", "dev", "eth0")
    machine.ip("-n", machine.namespace, "route", "replace", "default", "via", f"{machine.prefix}.1")
    machine.start("--node-ip", f"{machine.prefix}.{MOVED}")

    def moved() -> bool:
        addresses = cluster.get("node", machine.name)["status"]["addresses"]
        return {"type": "InternalIP", "address": f"{machine.prefix}.{MOVED}"} in addresses

    until(moved, "the node's new address")


def test_who_may_not_join(cluster: Cluster, machine: Machine) -> None:
    words = join_command(cluster)
    flags = dict(zip(words[::2], words[1::2], strict=True))

    def attempt(*more: str, **changed: str) -> str:
        given = {**flags, **{f"--{name.replace('_', '-')}": value for name, value in changed.items()}}
        done = machine.run(*(f"{name}={value}" for name, value in given.items() if value), *more)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr

    token_id = flags["--token"].partition(".")[0]
    nodes = [node["name"] for node in cluster.status()["nodes"]]
    assert "is not a bootstrap token" in attempt(token="secret")
    assert "is unknown to the cluster or has expired" in attempt(token="zzzzzz.0123456789abcdef")
    assert "the token does not fit" in attempt(token=f"{token_id}.0123456789abcdef")
    assert "the cluster's CA has the hash sha256:" in attempt(ca_cert_hash="sha256:00")
    assert "--ca-cert-hash is needed" in attempt(ca_cert_hash="")
    assert f'has a node "{nodes[0]}" already' in attempt("--node-name", nodes[0])
    assert "is not an address" in attempt("--node-ip", "here")
    assert "more than one address of a family" in attempt("--node-ip", "10.0.0.1,10.0.0.2")
    assert "is not a node name" in attempt("--node-name", "A_B")
    assert "cannot reach https://127.0.0.1:1" in attempt(server="https://127.0.0.1:1")
    assert "is a cluster of this machine" in attempt("--name", cluster.name)
    assert "needed (`tiphys token create`)" in attempt(token="")
    assert [node["metadata"]["name"] for node in cluster.get("nodes")["items"]] == nodes


def test_what_a_token_may_not_do(cluster: Cluster) -> None:
    token = join_command(cluster)[3]
    server = cluster.status()["server"]
    flags = (f"--server={server}", f"--token={token}", "--insecure-skip-tls-verify", "--kubeconfig", os.devnull)
    for words in (
        ("get", "pods", "-A"),
        ("get", "secrets", "-n", "kube-system"),
        ("get", "nodes"),
        ("delete", "node", "x"),
    ):
        done = cluster.run(*flags, *words)
        assert done.returncode != 0
        assert "is forbidden" in done.stderr, done.stderr
