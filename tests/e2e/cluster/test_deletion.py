"""Deleting pods: in order, with grace, and nothing of them stays on the node."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.e2e.cluster import machine
from tests.e2e.cluster.harness import NAME, Cluster, until

STUBBORN = """
apiVersion: v1
kind: Pod
metadata: {name: stubborn, labels: {app: stubborn}}
spec:
  terminationGracePeriodSeconds: 3
  containers:
  - name: c
    image: busybox:1.37
    command: [sh, -c, 'trap "echo told > /out/told" TERM; while true; do sleep 0.1; done']
    volumeMounts: [{name: out, mountPath: /out}]
  volumes: [{name: out, hostPath: {path: DIRECTORY, type: DirectoryOrCreate}}]
---
apiVersion: v1
kind: Service
metadata: {name: stubborn}
spec: {selector: {app: stubborn}, ports: [{port: 80}]}
"""


STATE = Path("/var/lib/tiphys")
PODS = int(os.environ.get("TIPHYS_TEST_PODS", "30"))
CROWD = max(10, min(100, PODS // 10))  # made and deleted at once


def node_state(cluster: Cluster, node: str) -> dict[str, int]:
    """How many of each thing a node has for its pods."""
    netns = f"tiphys-{cluster.name}-{node}"
    links = subprocess.run(["ip", "-n", netns, "-br", "link"], capture_output=True, text=True, check=True).stdout
    kubelet = next(pid for name, pid in cluster.pids().items() if name == f"{node}/kubelet")
    mounts = [line.split()[1:3] for line in Path(f"/proc/{kubelet}/mounts").read_text().splitlines()]
    # Both nodes' mounts are seen from either; a node is judged by its own.
    own = [(path, kind) for path, kind in mounts if f"/nodes/{node}/" in path]
    # Not by a pattern from the root: other clusters' cgroups go while one looks.
    tops = [top for below in ("", "*/") for top in machine.CGROUPS.glob(f"{below}tiphys-{cluster.name}/{node}")]
    cgroups = [name for top in tops for _, names, _ in os.walk(top) for name in names if name.startswith("pod")]
    return {
        "links": len(links.splitlines()),
        "namespaces": sum(kind == "nsfs" for _, kind in own),
        "mounts": sum(kind != "nsfs" for _, kind in own),
        "cgroups": len(cgroups),
        "addresses": len(list((STATE / cluster.name / "nodes" / node / "network" / "addresses").glob("[0-9]*"))),
        "rules": _rules(netns),
    }


def _rules(netns: str) -> int:
    """Rules of a node, and elements of the sets and maps they look into."""
    command = ["ip", "netns", "exec", netns, "nft", "-j", "list", "ruleset"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    items: list[dict[str, Any]] = json.loads(listed)["nftables"]
    found = [(kind, body) for item in items for kind, body in item.items()]
    rules: int = sum(kind == "rule" for kind, _ in found)
    return rules + sum(len(body.get("elem", [])) for kind, body in found if kind in ("set", "map"))


def test_endpoints_go_first_then_sigterm_the_grace_period_and_sigkill(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    manifest = STUBBORN.replace("DIRECTORY", str(tmp_path / "out"))
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=manifest)
    cluster.wait_ready("stubborn", namespace)
    selector = "kubernetes.io/service-name=stubborn"

    def serving() -> int:
        slices = cluster.get("endpointslices", "-n", namespace, "-l", selector)["items"]
        ready = [end for item in slices for end in item.get("endpoints") or [] if end["conditions"].get("ready")]
        return len(ready)

    until(lambda: serving() == 1, "the endpoint to be ready")
    began = time.monotonic()
    cluster.kubectl("delete", "pod", "stubborn", "-n", namespace, "--wait=false")
    until(lambda: serving() == 0, "the endpoint to be withdrawn")
    withdrawn = time.monotonic() - began
    until(lambda: (tmp_path / "out" / "told").exists(), "SIGTERM to arrive")
    until(lambda: cluster.run("get", "pod", "stubborn", "-n", namespace).returncode == 1, "the pod to be gone")
    gone = time.monotonic() - began
    # It ignores SIGTERM, so it lived through its three seconds, and its endpoint was not kept for them.
    assert withdrawn < gone
    assert gone >= 3


def test_pods_leave_nothing_on_their_nodes(cluster: Cluster, namespace: str) -> None:
    """The number of pods is TIPHYS_TEST_PODS (30; a thousand take some minutes)."""
    nodes = (f"{NAME}-1", f"{NAME}-2")
    before = {node: node_state(cluster, node) for node in nodes}
    kinds = sum(len(state) for state in before.values())
    within = ("-n", namespace)
    for turn in range(-(-PODS // CROWD)):
        name = f"crowd-{turn}"
        command = ("--image=busybox:1.37", f"--replicas={CROWD}", "--port=80", "--", "sleep", "3600")
        cluster.kubectl("create", "deployment", name, *within, *command)
        cluster.kubectl("expose", f"deployment/{name}", *within)
        cluster.kubectl("rollout", "status", f"deployment/{name}", *within, "--timeout=90s")
        # What is not seen while they run would not be missed when it stays.
        until(lambda: len(_more(cluster, before)) == kinds, "the pods to be seen in every count")
        cluster.kubectl("delete", "deployment,service", name, *within)
        cluster.kubectl("delete", "pods", *within, "-l", f"app={name}", "--grace-period=0", "--force", "--wait=true")
    until(lambda: not cluster.get("pods", *within)["items"], "the pods to be gone")

    def as_before() -> bool:
        left = _more(cluster, before)
        assert not left, f"more than before: {left}"
        return True

    until(as_before, "both nodes to be as they were")


def _more(cluster: Cluster, before: dict[str, dict[str, int]]) -> dict[str, int]:
    """What there is more of than before. Less is no fault: an earlier test's pods may just have been going."""
    now = {node: node_state(cluster, node) for node in before}
    return {
        f"{node} {kind}": now[node][kind] - count
        for node, state in before.items()
        for kind, count in state.items()
        if now[node][kind] > count
    }
