"""Nodes that hang, come back, are added and go."""

from __future__ import annotations

from typing import Any

from tests.e2e.cluster.harness import NAME, Cluster, tiphys, until

WORK = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: moves}
spec:
  replicas: 2
  selector: {matchLabels: {app: moves}}
  template:
    metadata: {labels: {app: moves}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: moves}}
      containers:
      - {name: c, image: 'busybox:1.37', command: [sleep, '3600']}
"""


def ready(cluster: Cluster, node: str) -> str:
    found = {item["type"]: item["status"] for item in cluster.get("node", node)["status"]["conditions"]}
    return str(found["Ready"])


def taints(cluster: Cluster, node: str) -> set[tuple[str, str]]:
    return {(taint["key"], taint["effect"]) for taint in cluster.get("node", node)["spec"].get("taints", [])}


def running_on(cluster: Cluster, namespace: str) -> list[str]:
    pods: list[dict[str, Any]] = cluster.get("pods", "-n", namespace)["items"]
    return sorted(
        pod["spec"]["nodeName"]
        for pod in pods
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    )


def test_a_node_that_hangs_loses_its_pods_and_comes_back(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=WORK)
    until(lambda: running_on(cluster, namespace) == [f"{NAME}-1", f"{NAME}-2"], "one pod a node")
    tiphys("node", "stop", f"{NAME}-2", "--name", cluster.name)
    try:
        until(lambda: ready(cluster, f"{NAME}-2") == "Unknown", "the node to be NotReady")
        unreachable = "node.kubernetes.io/unreachable"
        until(lambda: (unreachable, "NoSchedule") in taints(cluster, f"{NAME}-2"), "no pods to be sent there")
        until(lambda: (unreachable, "NoExecute") in taints(cluster, f"{NAME}-2"), "its pods to be driven off")
        until(lambda: running_on(cluster, namespace) == [f"{NAME}-1", f"{NAME}-1"], "its pod to be replaced elsewhere")
    finally:
        tiphys("node", "start", f"{NAME}-2", "--name", cluster.name)
    until(lambda: ready(cluster, f"{NAME}-2") == "True", "the node to be Ready again")
    until(lambda: not cluster.get("node", f"{NAME}-2")["spec"].get("taints"), "its taints to be gone")
    until(lambda: len(cluster.get("pods", "-n", namespace)["items"]) == 2, "the pod that was left behind to be gone")


def test_a_node_is_added_used_and_removed(cluster: Cluster, namespace: str) -> None:
    tiphys("node", "add", "extra", "--name", cluster.name)
    try:
        until(
            lambda: "extra" in cluster.kubectl("get", "nodes", "-o", "name") and ready(cluster, "extra") == "True",
            "the new node to be Ready",
        )
        overrides = '{"spec": {"nodeName": "extra", "terminationGracePeriodSeconds": 1}}'
        cluster.kubectl(
            "run", "there", "-n", namespace, "--image=busybox:1.37", f"--overrides={overrides}", "--", "sleep", "3600"
        )
        cluster.wait_ready("there", namespace)
    finally:
        tiphys("node", "remove", "extra", "--name", cluster.name)
    until(lambda: "extra" not in cluster.kubectl("get", "nodes", "-o", "name"), "the node to be gone")
