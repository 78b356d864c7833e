"""Volumes that come with every cluster: a StatefulSet keeps its data, and nothing of it stays behind."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.cluster.harness import Cluster, until

STATEFUL = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: db}}}
      containers:
      - name: c
        image: busybox:1.37
        command: [sh, -c, 'echo "$(hostname)" >> /data/log; cat /data/log; exec sleep 100000']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"""


def directories(cluster: Cluster, namespace: str) -> list[str]:
    """The volumes of a namespace's claims, as `node/claim`."""
    found = Path(f"/var/lib/tiphys/{cluster.name}/nodes").glob(f"*/volumes/*_{namespace}_*")
    return sorted(f"{path.parts[-3]}/{path.name.rpartition('_')[2]}" for path in found)


def test_a_stateful_set_finds_its_data_again_and_takes_it_along_with_its_claims(
    cluster: Cluster, namespace: str
) -> None:
    def logs(name: str) -> list[str]:
        return cluster.run("logs", name, "-n", namespace).stdout.split()

    def ready() -> bool:
        found = cluster.get("statefulset", "db", "-n", namespace)["status"]
        return bool(found.get("readyReplicas") == 2)

    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=STATEFUL)
    until(ready, "both pods to be ready")
    made = directories(cluster, namespace)
    assert sorted(path.partition("/")[2] for path in made) == ["data-db-0", "data-db-1"]
    assert len({path.partition("/")[0] for path in made}) == 2, "one on each node"
    cluster.kubectl("delete", "pod", "db-0", "db-1", "-n", namespace)
    until(ready, "both pods to be ready again")
    until(lambda: logs("db-0") == ["db-0", "db-0"] and logs("db-1") == ["db-1", "db-1"], "the old data")
    assert directories(cluster, namespace) == made
    cluster.kubectl("delete", "statefulset", "db", "-n", namespace)
    assert directories(cluster, namespace) == made
    cluster.kubectl("delete", "pvc", "--all", "-n", namespace)
    until(lambda: not directories(cluster, namespace), "the directories to be removed")

    def helpers() -> str:
        return cluster.kubectl("get", "pods", "-n", "kube-system", "-l", "tiphys.dev/local-path-volume", "-o", "name")

    until(lambda: not helpers(), "the helpers to be gone")
    volumes = cluster.get("pv")["items"]
    assert [one for one in volumes if one["spec"]["claimRef"]["namespace"] == namespace] == []
