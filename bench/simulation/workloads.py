"""The objects of the load, and how many of each size: few large Deployments and very many small ones.

After upstream's load test, where half of all pods belong to small sets, a quarter each to medium and big ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

# Replicas of one Deployment = the share of all pods in such.
SIZES: Final = "1000=0.4,250=0.3,30=0.2,5=0.1"
PODS_A_NAMESPACE: Final = 2000
LOAD: Final = "load-"


@dataclass(frozen=True, slots=True)
class Set:
    """One Deployment."""

    namespace: str
    name: str
    replicas: int

    @property
    def app(self) -> str:
        return f"{self.namespace}/{self.name}"


def shares(text: str) -> dict[int, float]:
    """Sizes and shares as a user writes them, the large ones first. Raises ValueError."""
    pairs = [each.partition("=") for each in text.split(",")]
    return dict(sorted(((int(size), float(share)) for size, _, share in pairs), reverse=True))


def plan(pods: int, sizes: dict[int, float]) -> list[Set]:
    """The Deployments of so many pods, the large ones first; what is left over is of the smallest size."""
    found: list[Set] = []
    left, number, filled = pods, 0, 0
    for size, share in sizes.items():
        last = size == min(sizes)
        wanted = left if last else min(left, int(pods * share) // size * size)
        left -= wanted
        while wanted > 0:
            replicas = min(size, wanted)
            found.append(Set(f"{LOAD}{filled // PODS_A_NAMESPACE}", f"web-{number}", replicas))
            wanted, number, filled = wanted - replicas, number + 1, filled + replicas
    return found


def chosen(sets: list[Set], pods: int) -> list[Set]:
    """The first of them that have so many pods together."""
    found, total = [], 0
    for each in sets:
        if total >= pods:
            break
        found.append(each)
        total += each.replicas
    return found


def template(labels: dict[str, str], version: str) -> dict[str, Any]:
    """A pod template. Its pods leave a lost node soon, where usually they would wait five minutes."""
    container = {
        "name": "c",
        "image": f"app:{version}",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        "ports": [{"containerPort": 8080}],
    }
    keys = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    tolerations = [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10} for key in keys]
    spec = {"containers": [container], "tolerations": tolerations, "automountServiceAccountToken": False}
    return {"metadata": {"labels": {**labels, "version": version}}, "spec": spec}


def deployment(each: Set) -> dict[str, Any]:
    labels = {"app": each.name}
    return {
        "metadata": {"name": each.name, "labels": {"load": "true"}},
        "spec": {
            "replicas": each.replicas,
            "selector": {"matchLabels": labels},
            "template": template(labels, "1"),
            "progressDeadlineSeconds": 7200,
        },
    }


def job(number: int, completions: int) -> dict[str, Any]:
    """An indexed Job, so that it can be told whether something ran twice."""
    pod = template({"app": f"job-{number}"}, "1")
    pod["spec"]["restartPolicy"] = "Never"
    spec = {"completions": completions, "parallelism": completions, "completionMode": "Indexed", "template": pod}
    return {"metadata": {"name": f"job-{number}"}, "spec": spec}


def service(number: int, target: Set) -> dict[str, Any]:
    return {
        "metadata": {"name": f"svc-{number}", "labels": {"load": "true"}},
        "spec": {"selector": {"app": target.name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def lone_pod(number: int) -> dict[str, Any]:
    made = template({"app": f"lone-{number}"}, "1")
    return {"metadata": {"name": f"lone-{number}", "labels": made["metadata"]["labels"]}, "spec": made["spec"]}
