"""Deleting pods: in order, with grace, and nothing of them stays on the node."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

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


def node_state(cluster: Cluster, node: str) -> dict[str, int]:
    """How many of each thing a node has: interfaces of pods, mounts, namespaces, cgroups of pods."""
    netns = f"tiphys-{cluster.name}-{node}"
    links = subprocess.run(["ip", "-n", netns, "-br", "link"], capture_output=True, text=True, check=True).stdout
    kubelet = next(pid for name, pid in cluster.pids().items() if name == f"{node}/kubelet")
    mounts = [line.split()[1] for line in Path(f"/proc/{kubelet}/mounts").read_text().splitlines()]
    cgroups = [path for path in machine.CGROUPS.glob(f"**/tiphys-{cluster.name}/{node}/**/*pod*") if path.is_dir()]
    return {
        "links": len(links.splitlines()),
        "mounts": sum("/pods/" in path or "/containers/" in path or "/sandboxes/" in path for path in mounts),
        "cgroups": len(cgroups),
    }


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
    before = {node: node_state(cluster, node) for node in (f"{NAME}-1", f"{NAME}-2")}
    for turn in range(3):
        name = f"crowd-{turn}"
        cluster.kubectl(
            "create",
            "deployment",
            name,
            "-n",
            namespace,
            "--image=busybox:1.37",
            "--replicas=10",
            "--",
            "sleep",
            "3600",
        )
        cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=90s")
        cluster.kubectl("delete", "deployment", name, "-n", namespace)
        cluster.kubectl(
            "delete", "pods", "-n", namespace, "-l", f"app={name}", "--grace-period=0", "--force", "--wait=true"
        )
    until(lambda: not cluster.get("pods", "-n", namespace)["items"], "the pods to be gone")
    for node, state in before.items():
        until(lambda node=node, state=state: node_state(cluster, node) == state, f"{node} to be as it was")
